"""One training: seeds, order of the data, what it costs, and what the kit carries to a worker."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlsysopt.core.errors import StudyError
from mlsysopt.core.executors import Local
from mlsysopt.design.ablate.deltas import Component, Row
from mlsysopt.design.ablate.kit import Kit, load, save
from mlsysopt.design.ablate.options import Unusable, read_metrics
from mlsysopt.design.ablate.streams import data_rng, seeded
from mlsysopt.design.ablate.trial import TrialSpec, in_worker, run_trial


def net() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Dropout(0.5))


def draws(model: Any, data: Any, *, seed: int, loud: bool = False) -> dict[str, float]:
    """Return what every stream gives at the start of a training."""
    return {
        "torch": float(torch.rand(())),
        "numpy": float(np.random.rand()),  # noqa: NPY002
        "random": random.random(),
        "order": float(data_rng(seed).random()),
        "weight": float(next(model.parameters()).detach().sum()),
        "sum": float(np.sum(data)),
    }


def kit(**changes: Any) -> Kit:
    return Kit(**{"make_model": net, "train": draws, "data": np.ones(5), "metric": "torch", **changes})


def test_a_seed_fixes_every_stream_and_leaves_the_callers_alone() -> None:
    torch.manual_seed(5)
    random.seed(5)
    before = torch.get_rng_state()
    first, again, other = (run_trial(kit(), TrialSpec(Row(()), seed))["metrics"] for seed in (1, 1, 2))
    assert first == again
    assert all(first[name] != other[name] for name in first if name != "sum")
    assert torch.equal(torch.get_rng_state(), before)


def test_training_starts_from_the_same_state_in_every_row() -> None:
    row = Row.without([Component("loud=True", "option", {"name": "loud", "value": True})])
    base, loud = (run_trial(kit(), TrialSpec(one, 3))["metrics"] for one in (Row(()), row))
    assert base == loud


def test_costs_are_kept() -> None:
    def busy(model: Any, data: Any, *, seed: int) -> float:
        return float(sum(np.linalg.norm(np.ones((60, 60)) @ np.ones((60, 60))) for _ in range(50)))

    found = run_trial(kit(train=busy, metric="x"), TrialSpec(Row(()), 0))
    assert found["state"] == "ok" and found["cpu_s"] > 0 and found["wall_s"] > 0
    assert found["rss_bytes"] > 10_000_000
    assert 0 <= found["overhead_s"] < 1.0


def test_what_the_user_raises_stays_inside() -> None:
    def bad(model: Any, data: Any, *, seed: int) -> float:
        raise SystemExit("leaving")

    found = run_trial(kit(train=bad), TrialSpec(Row(()), 0))
    assert (found["state"], found["reason"]) == ("crashed", "SystemExit: leaving")
    assert "in bad" in found["tail"]


def test_fused_paths_are_off_while_it_trains() -> None:
    def asks(model: Any, data: Any, *, seed: int) -> float:
        return float(torch.backends.mha.get_fastpath_enabled())

    assert run_trial(kit(train=asks, metric="x"), TrialSpec(Row(()), 0))["metrics"] == {"x": 0.0}
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_kit_travels_and_its_arrays_are_mapped(tmp_path: Path) -> None:
    big = np.arange(100_000, dtype=np.float64)
    data = {"x": big, "small": np.ones(3), "deep": [torch.ones(50_000), ("text", 1)]}
    save(kit(data=data), tmp_path)
    found = load(str(tmp_path)).data
    assert isinstance(found["x"], np.memmap) and np.array_equal(found["x"], big)
    assert torch.equal(found["deep"][0], data["deep"][0]) and found["deep"][1] == ("text", 1)
    # A training may write into its data: nobody else sees it.
    found["x"][0] = 9.0
    assert np.load(tmp_path / "0.npy", mmap_mode="r")[0] == 0.0


def test_a_worker_gives_what_this_process_gives(tmp_path: Path) -> None:
    save(kit(data=np.arange(20_000.0)), tmp_path)
    spec = TrialSpec(Row(()), 4)
    with Local(1) as pool:
        there = pool.submit(in_worker, str(tmp_path), spec).result()
    here = run_trial(kit(data=np.arange(20_000.0)), spec)
    assert there["metrics"] == here["metrics"]


def test_what_cannot_travel_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"data\['rows'\]\[1\] cannot be sent to a worker"):
        save(kit(data={"rows": [1, (n for n in range(3))]}), tmp_path)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), torch.tensor(0.5), torch.tensor([0.5]), {"m": 0.5, "s": "x"}])
def test_numbers_of_every_kind(value: Any) -> None:
    assert read_metrics(value, "m")["m"] == 0.5


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "rejected"), ("0.5", "rejected"), ({}, "rejected"), ({"n": 1}, "rejected"), (object(), "rejected"),
        (torch.tensor(0.5, requires_grad=True), "rejected"), (float("inf"), "degraded"), (np.nan, "degraded"),
    ],
)  # fmt: skip
def test_what_is_no_number(value: Any, kind: str) -> None:
    with pytest.raises(Unusable) as caught:
        read_metrics(value, "m")
    assert caught.value.kind == kind


def test_seeded_is_reentrant() -> None:
    with seeded(1):
        a = torch.rand(())
        with seeded(2):
            torch.rand(3)
        b = torch.rand(())
    with seeded(1):
        assert torch.equal(torch.rand(()), a) and torch.equal(torch.rand(()), b)
