"""Executors by name, and what is missing."""

from __future__ import annotations

import sys

import pytest

from mlsysopt.core.errors import MissingExtra, UsageError
from mlsysopt.core.executors import InProcess, Local, Ray, executor


def test_by_name() -> None:
    assert isinstance(executor("inprocess"), InProcess)
    made = executor("local", workers=3)
    assert isinstance(made, Local) and made.workers == 3


def test_an_unknown_name_lists_the_near_ones() -> None:
    with pytest.raises(UsageError, match=r"unknown executor 'locale': did you mean local\?"):
        executor("locale")


def test_ray_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"the ray executor needs the 'cluster' extra: pip install"):
        executor("ray")


def test_ray_refuses_what_contradicts_itself() -> None:
    with pytest.raises(UsageError, match="workers must be at least 1"):
        Ray(workers=0)
    with pytest.raises(UsageError, match="only one of the two"):
        Ray(workers=2, address="auto")


def test_in_process_ends() -> None:
    with InProcess() as here:
        assert list(here.map(abs, [-1, 2])) == [1, 2]
    with pytest.raises(UsageError, match="shut down"):
        here.submit(abs, -1)


def test_in_process_is_lazy() -> None:
    seen: list[int] = []
    results = InProcess().map(seen.append, [1, 2])
    next(results)
    assert seen == [1]


def test_ctrl_c_in_process_is_the_callers() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        InProcess().submit(interrupted)
