"""Models whose tables go on learning: what is compared in which calls, what changes, and what outlives the program."""

from __future__ import annotations

import copy
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mlsysopt.compile.linear import adapt, plan_of, restore
from mlsysopt.compile.linear.keeping import Keeper, refiners
from mlsysopt.compile.linear.packs import Packs
from mlsysopt.compile.linear.refine import PAIRS, Refiner
from mlsysopt.compile.linear.swap import install, packs_of
from mlsysopt.compile.linear.tables import Table
from mlsysopt.compile.variants.decision import Decision, Segment
from mlsysopt.compile.variants.machine import MachineProfile
from mlsysopt.compile.variants.registry import variant

X = torch.randn(5, 384, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare in every call instead of one in 500."""
    monkeypatch.setattr(Refiner.__init__, "__kwdefaults__", {**(Refiner.__init__.__kwdefaults__ or {}), "every": 1})


@pytest.fixture
def slow_panels(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make panels much slower than anything else, and count their calls."""
    way = type(variant("panel.f32"))
    bind, calls = way.bind, []

    def slowed(self: Any, site: Any, packed: Any, bias: Any) -> Any:
        run = bind(self, site, packed, bias)

        def call(x: torch.Tensor, residual: Any = None) -> torch.Tensor:
            calls.append(len(x))
            until = time.thread_time() + 2e-3
            while time.thread_time() < until:
                pass
            return run(x)

        return call

    monkeypatch.setattr(way, "bind", slowed)
    return calls


def model() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(384, 384), nn.ReLU(), nn.Linear(384, 384)).eval()


def runs(adapted: nn.Module, calls: int, x: torch.Tensor = X) -> torch.Tensor:
    with torch.inference_mode():
        for _ in range(calls):
            y = adapted(x)
    return y


def finished() -> Iterator[None]:
    for one in threading.enumerate():
        if one.name == "mlsysopt-refine":
            one.join()
            yield


def test_a_table_that_is_wrong_is_mended_between_calls(every_call: None, slow_panels: list[int], panels: Any) -> None:
    fast, twin = adapt(model(), prices=panels, refine="background", max_extra_memory="2x"), model()
    assert plan_of(fast).products[0].decision.variants == ("panel.f32",)
    # Both layers are alike and learn together.
    torch.testing.assert_close(runs(fast, PAIRS // 2), runs(twin, 1), rtol=1e-5, atol=1e-5)
    decided = plan_of(fast).products[0].decision
    assert [decided.at(rows) for rows in (3, 4, 5, 6)] == ["panel.f32", "aten.nt", "aten.nt", "panel.f32"]
    assert fast.plan().lines[-1] == "refined while running: comparisons settled: 1, tables changed by them: 1"
    slow_panels.clear()
    assert torch.equal(runs(fast, 1), runs(twin, 1)), "both layers run plain"
    runs(fast, PAIRS)
    assert len(slow_panels) <= PAIRS, "the loser has had its second chance"
    slow_panels.clear()
    runs(fast, 3)
    assert not slow_panels, "learning ends"


def test_a_call_gives_what_its_table_says_while_another_variant_is_timed(every_call: None, panels: Any) -> None:
    plain, fast = adapt(model(), prices=panels), adapt(model(), prices=panels, refine="background")
    for _ in range(4):
        assert torch.equal(runs(fast, 1), runs(plain, 1))
    assert sum(len(one) for one in next(iter(packs_of(fast))).refiner.pairs.values()) == 8  # type: ignore[union-attr]


def test_one_call_in_five_hundred_pays(panels: Any, slow_panels: list[int]) -> None:
    table = Decision((Segment(1, "aten.nt", runner_up="panel.f32"), Segment(64, "panel.f32", runner_up="aten.nt")))
    layer = nn.Sequential(nn.Linear(384, 384)).eval()
    tables = _tables(layer, table)
    install(layer, tables, threads=1, refiners=refiners(tables, (1, 64), 1, None, "cold"))
    runs(layer, 499)
    assert not slow_panels
    runs(layer, 1)
    assert slow_panels == [5]
    runs(layer, 499)
    assert slow_panels == [5]


def _tables(module: nn.Module, decision: Decision, forms: tuple[str, ...] = ("original", "panel.f32")) -> list[Table]:
    from mlsysopt.compile.linear.sites import products

    return [Table(one, decision, forms) for one in products(module)]


def test_learning_takes_no_memory_and_needs_a_choice(panels: Any) -> None:
    two = Decision((Segment(1, "panel.f32", runner_up="onednn.packed"),))
    (found,) = refiners(_tables(model(), two), (1, 8), 1, None, "cold").values()
    assert found.able == ("panel.f32", "aten.nt"), "the packed form of a library is not among those that are kept"
    assert refiners(_tables(model(), two, ("panel.f32",)), (1, 8), 1, None, "cold") == {}
    assert refiners(_tables(model(), Decision.always("aten.nt")), (1, 8), 1, None, "cold") == {}
    folded = adapt(model(), prices=panels, refine="background", max_extra_memory="0x")
    assert all(one.refiner is None for one in packs_of(folded))


def test_calls_that_run_plain_for_other_reasons_compare_nothing(every_call: None, panels: Any) -> None:
    fast = adapt(model(), prices=panels, refine="background")
    refiner = next(iter(packs_of(fast))).refiner
    assert refiner is not None
    fast(X)  # gradients
    runs(fast.double(), 1, X.double())
    runs(fast.float(), 1, X[:0])
    with torch.autocast("cpu"):
        runs(fast, 1)
    assert not refiner.pairs


def test_off_is_off(panels: Any) -> None:
    assert all(one.refiner is None for one in packs_of(adapt(model(), prices=panels)))


def test_copies_and_pickles_learn_on_by_themselves(every_call: None, slow_panels: list[int], panels: Any) -> None:
    fast = adapt(model(), prices=panels, refine="background")
    runs(fast, PAIRS // 2 - 1)
    for again in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        runs(again, 1)
        assert plan_of(again).products[0].decision.at(5) == "aten.nt"
        shared = {id(one.refiner) for one in packs_of(again)}
        assert len(shared) == 1, "its layers still learn together"
    assert plan_of(fast).products[0].decision.at(5) == "panel.f32"
    restore(fast)
    assert type(fast[0]) is nn.Linear


def test_threads_share_what_they_learn(every_call: None, slow_panels: list[int], panels: Any) -> None:
    fast, wanted = adapt(model(), prices=panels, refine="background"), runs(model(), 1)
    wrong: list[int] = []

    def work() -> None:
        torch.set_num_threads(1)
        for i in range(40):
            if not torch.allclose(runs(fast, 1), wanted, rtol=1e-5, atol=1e-5):
                wrong.append(i)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not wrong and plan_of(fast).products[0].decision.at(5) == "aten.nt"


def test_verdicts_outlive_the_program(every_call: None, slow_panels: list[int], tmp_path: Path) -> None:
    path = tmp_path / "machine.db"
    options: dict[str, Any] = {"refine": "background", "budget": "0s", "most_rows": 8}
    wrong = Decision((Segment(1, "panel.f32", runner_up="aten.nt"),))

    def learning() -> tuple[nn.Module, Refiner]:
        made = model()
        tables = _tables(made, wrong)
        with MachineProfile.open(path) as profile:
            found = refiners(tables, (1, 4, 8), 1, profile, "cold")
        install(made, tables, threads=1, refiners=found)
        return made, next(iter(found.values()))

    first, learned = learning()
    runs(first, PAIRS)
    list(finished())
    assert learned.decision.at(5) == "aten.nt"
    _, again = learning()
    assert again.decision == learned.decision and again.verdicts == learned.verdicts
    with MachineProfile.open(path) as profile:
        assert profile.find("aten.nt", "1", Packs(wrong, 384, 384).site(None).at(M=4), "cold") is None
        whole = adapt(model(), profile=profile, **options)
    assert whole(X).shape == X.shape


def test_verdicts_that_cannot_be_read_are_none() -> None:
    profile = MachineProfile(path=None)
    for text in ("no JSON", "5", '[{"rows": 1}]', "[]"):
        profile.keep_fit("refined", 1, text)
        assert Keeper(profile).known("refined") == []
    assert Keeper(profile).known("something else") == []
