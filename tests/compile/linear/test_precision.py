"""The ladder on a small module: gates, promotion, the planted layer, last checks on batches kept back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mlsysopt.compile.linear.precision import RUNGS, Outcome, climb, output_errors
from mlsysopt.core.errors import UsageError

torch = pytest.importorskip("torch")

# Seconds of one call: less for fewer bytes.
SECONDS = {"f32": 4e-6, "bf16": 2e-6, "int8w": 1e-6}


def lowered(weights: Any, rung: str) -> Any:
    if rung == "bf16":
        return weights.to(torch.bfloat16).to(torch.float32)
    if rung == "int8w":
        scales = weights.abs().amax(1, keepdim=True) / 127
        return (weights / scales).round() * scales
    return weights


class Net:
    """Three layers with a relu between; layer `planted` has columns that differ by 1e4, undone by its input."""

    def __init__(self, planted: int | None = None, width: int = 48) -> None:
        generator = torch.Generator().manual_seed(7)
        self.layers = [torch.randn(width, width, generator=generator) / width**0.5 for _ in range(3)]
        self.scales = [torch.ones(width) for _ in range(3)]
        if planted is not None:
            spread = torch.logspace(-4, 0, width)
            self.layers[planted] = self.layers[planted] * spread
            self.scales[planted] = 1 / spread
        self.calls: list[dict[str, str]] = []

    def modules(self) -> Sequence[str]:
        return [f"layer{i}" for i in range(3)]

    def rungs(self, module: str) -> Sequence[str]:
        return RUNGS

    def seconds(self, module: str, rung: str) -> float:
        return SECONDS[rung]

    def expected(self, module: str, rung: str) -> float:
        return {"f32": 1e-6, "bf16": 5e-3, "int8w": 1e-2}[rung]

    def run(self, batch: Any, rungs: Mapping[str, str]) -> npt.NDArray[Any]:
        self.calls.append(dict(rungs))
        x = batch
        for i, weights in enumerate(self.layers):
            x = torch.relu((x * self.scales[i]) @ lowered(weights, rungs.get(f"layer{i}", "f32")).T)
        return x.numpy()

    def reference(self, batch: Any) -> npt.NDArray[np.float64]:
        x = batch.double()
        for weights, scales in zip(self.layers, self.scales, strict=True):
            x = torch.relu((x * scales.double()) @ weights.double().T)
        return x.numpy()


def batches(count: int) -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(16, 48, generator=generator) for _ in range(count)]


def test_auto_promotes_the_planted_layer_and_leaves_the_others_low() -> None:
    plain = climb(Net(), "auto", batches(4), limit=0.08)
    planted = climb(Net(planted=1), "auto", batches(4), limit=0.08)
    assert set(plain.rungs.values()) == {"int8w"}
    assert plain.promoted == ()
    assert planted.rungs["layer1"] in ("bf16", "f32")
    assert planted.promoted[0] == ("layer1", "int8w")
    assert {planted.rungs["layer0"], planted.rungs["layer2"]} == {"int8w"}
    assert planted.tried[-1].passed
    assert planted.tried[-1].unseen
    assert planted.tried[0].errors.largest > 0.08


def test_what_passes_is_really_within_the_limit() -> None:
    net, held = Net(planted=2), batches(4)
    found = climb(net, "auto", held, limit=0.03)
    worst = max(output_errors(net.run(one, found.rungs), net.reference(one)).largest for one in held)
    assert worst <= 0.03
    assert not found.refused


def test_fixed_rungs_are_all_or_nothing() -> None:
    assert climb(Net(), "bf16", batches(2), limit=0.05).rungs == dict.fromkeys(Net().modules(), "bf16")
    refused = climb(Net(planted=0), "int8w", batches(2), limit=0.05)
    assert refused.refused
    assert set(refused.rungs.values()) == {"f32"}
    assert not refused.tried[-1].passed
    assert refused.tried[-1].errors.largest > 0.05
    assert "f32: int8w refused, error max" in refused.text()
    assert "against a limit of 0.05" in refused.text()


def test_modules_that_gain_nothing_stay_as_they_are() -> None:
    class Uneven(Net):
        def seconds(self, module: str, rung: str) -> float:
            return 4e-6 if module == "layer1" else SECONDS[rung]

    found = climb(Uneven(), "bf16", batches(2), limit=0.05)
    assert found.rungs == {"layer0": "bf16", "layer1": "f32", "layer2": "bf16"}
    assert found.tried[-1].lowered == 2


def test_nothing_reaches_the_limit() -> None:
    found = climb(Net(), "auto", batches(2), limit=1e-9)
    assert found.refused
    assert found.text() == "f32: auto is faster for no product within its error and memory limits"


def test_promotion_goes_on_down_to_f32() -> None:
    class Optimist(Net):
        def expected(self, module: str, rung: str) -> float:
            return 0.0

    net = Optimist()
    found = climb(net, "auto", batches(2), limit=1e-5)
    assert found.refused
    assert len(found.promoted) == 6
    assert found.tried[0].lowered == 3
    assert "auto refused, error max" in found.text()


def test_batches_kept_back_may_move_more_modules_up() -> None:
    held = batches(2)
    # The columns that int8 rounds away are silent in the first batch and loud in the second.
    held[0][:, :40] = 0
    found = climb(Net(planted=0), "auto", held, limit=0.08)
    assert next(rung.unseen for rung in found.tried) is False
    assert any(rung.unseen and not rung.passed for rung in found.tried)
    assert found.tried[-1].passed
    assert found.rungs["layer0"] != "int8w"
    # What is told is the worst of both halves, not the last one alone.
    assert found.errors is not None
    assert found.errors.largest == max(one.errors.largest for one in found.tried if one.passed)


def test_a_coarser_rung_that_saves_nothing_is_not_taken() -> None:
    class Slow(Net):
        def seconds(self, module: str, rung: str) -> float:
            return {"f32": 2e-6, "bf16": 3e-6, "int8w": 1e-6}[rung]

    net = Slow(planted=1)
    found = climb(net, "auto", batches(2), limit=0.08)
    assert found.rungs["layer1"] == "f32"
    assert all("bf16" not in call.values() for call in net.calls)


def test_f32_asks_for_nothing() -> None:
    found = climb(Net(), "f32", [])
    assert (found.lowered, found.refused, found.text()) == (0, False, "f32")


def test_errors_look_at_the_largest_and_at_values_that_are_not_finite() -> None:
    truth = np.ones(1000)
    given = truth.copy()
    given[3] = 1.5
    found = output_errors(given, truth)
    assert (found.largest, found.median) == (0.5, 0.0)
    given[3] = np.nan
    assert output_errors(given, truth).largest == np.inf
    truth[3] = np.nan
    assert output_errors(given, truth).largest == 0.0
    assert output_errors(np.array([np.inf, 1.0]), np.array([np.inf, 1.0])).largest == 0.0
    assert output_errors(np.empty(0), np.empty(0)).largest == 0.0
    with pytest.raises(UsageError, match="must be of one shape"):
        output_errors(np.ones(2), np.ones(3))


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(UsageError, match=r"precision 'bf61'; did you mean bf16\?"):
        climb(Net(), "bf61", batches(1))
    with pytest.raises(UsageError, match="error must be above 0, got 0"):
        climb(Net(), "auto", batches(1), limit=0)
    with pytest.raises(UsageError, match="at least one calibration batch"):
        climb(Net(), "auto", [])


def test_random_inputs_are_said() -> None:
    found = climb(Net(), "bf16", batches(1), limit=0.05, random_inputs=True)
    assert isinstance(found, Outcome)
    assert found.text().endswith("(random inputs)")
