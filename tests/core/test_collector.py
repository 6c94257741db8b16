"""Holding the collector back: nested, in threads, and never turned on for who had it off."""

from __future__ import annotations

import gc
import threading

import pytest

from mlsysopt.core.collector import uncollected


def test_it_is_off_inside_and_on_afterwards_even_after_an_error() -> None:
    assert gc.isenabled()
    with pytest.raises(ValueError, match="inner"), uncollected():
        assert not gc.isenabled()
        raise ValueError("inner")
    assert gc.isenabled()


def test_inner_uses_leave_it_off_for_the_outer_one() -> None:
    with uncollected():
        with uncollected():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_who_had_it_off_keeps_it_off() -> None:
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_the_last_thread_turns_it_on() -> None:
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with uncollected():
            entered.set()
            leave.wait(10)

    other = threading.Thread(target=stay)
    with uncollected():
        other.start()
        assert entered.wait(10)
    assert not gc.isenabled()
    leave.set()
    other.join()
    assert gc.isenabled()


def test_as_a_decorator_it_covers_every_call() -> None:
    @uncollected()
    def inside() -> bool:
        return gc.isenabled()

    assert [inside(), inside()] == [False, False]
    assert gc.isenabled()
