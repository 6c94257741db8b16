"""Profiles on a small product: what is measured, kept, read again, and how shapes are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlsysopt.compile.linear.decide import Timed
from mlsysopt.compile.linear.grid import parse_rows
from mlsysopt.compile.linear.profiling import ProfilePrices, candidates, profile, report, residency
from mlsysopt.compile.linear.shapes import NAMED, Shape, of_graph, parse_shapes, rows_at
from mlsysopt.compile.variants.machine import MachineProfile
from mlsysopt.compile.variants.site import Site
from mlsysopt.core.errors import UsageError
from mlsysopt.core.measure.micro import last_level_bytes
from mlsysopt.graph import Builder, Dim, f32

pytest.importorskip("torch")

SMALL = (Shape(160, 192, 3, "fc"),)


def test_a_profile_is_kept_and_read_again(tmp_path: Path) -> None:
    seen: list[Timed] = []
    with MachineProfile.open(tmp_path / "machine.db") as machine:
        first = profile(SMALL, parse_rows("1,8"), budget_s=30.0, machine=machine, watch=seen.append, panel=False)
        rows = len(machine.rows)
    assert [one.site.number("M") for one in seen].count(8) >= 1
    assert rows >= 4
    with MachineProfile.open(tmp_path / "machine.db") as machine:
        again: list[Timed] = []
        second = profile(SMALL, parse_rows("1,8"), budget_s=30.0, machine=machine, watch=again.append, panel=False)
        told = report(SMALL, parse_rows("1,8"), machine=machine, panel=False)
        assert len(machine.rows) == rows
    assert again == []
    assert first.products == second.products == told.products
    (only,) = told.products
    assert (only.k, only.n, only.count, only.label) == (160, 192, 3, "fc")
    assert {one.source for one in only.decision.segments} == {"measured"}


def test_without_a_budget_nothing_is_timed() -> None:
    machine = MachineProfile()
    found = profile(SMALL, parse_rows("1..8"), budget_s=0.0, machine=machine, panel=False)
    assert machine.rows == []
    assert found.products[0].decision.variants == ("aten.nt",)
    assert found.lines == ("not measured at 1 thread: mlsysopt linear profile does it",)


def test_each_product_may_have_row_counts_of_its_own() -> None:
    shapes = (Shape(160, 192, 1, "a"), Shape(192, 160, 1, "b"))
    seen: list[Timed] = []
    profile(
        shapes,
        [parse_rows("2"), parse_rows("3")],
        budget_s=30.0,
        machine=MachineProfile(),
        watch=seen.append,
        panel=False,
        settled=True,
    )
    assert {(one.site.number("K"), one.site.number("M")) for one in seen} == {(160, 2), (192, 3)}


def test_prices_know_what_was_measured() -> None:
    prices = ProfilePrices(MachineProfile())
    site = Site.linear(4, 192, 160)
    able = candidates(panel=False)[:2]
    assert prices.quote(site, able[0]).source == "roofline"
    prices.measure(site, able)
    quote = prices.quote(site, able[0])
    assert quote.source == "measured"
    assert 0 < quote.low <= quote.seconds <= quote.high


def test_precision_and_panels_choose_the_candidates() -> None:
    def names(*args: str, **kwargs: bool) -> set[str]:
        return {one.name for one in candidates(*args, **kwargs)}

    assert candidates()[0].name == "aten.nt"
    assert names() < names("bf16") < names("int8w")
    assert "panel.f32" in names()
    assert "panel.bf16w" in names("bf16")
    assert "aten.int8_dynamic" not in names("int8w")
    assert not any(one.startswith("panel.") for one in names("int8w", panel=False))
    with pytest.raises(UsageError, match=r"precision 'int8'; did you mean int8w\?"):
        candidates("int8")


def test_residency_is_that_of_all_weights_together() -> None:
    assert residency(1 << 10) == "warm"
    assert residency(last_level_bytes()) == "cold"


def test_shapes_by_name_and_by_numbers() -> None:
    assert sum(one.count for one in NAMED["bert-base"]) == 72
    assert parse_shapes("64x128")[0] == Shape(64, 128)
    for text in ("bert-bas", "64", "64x", "0x5", "axb", ""):
        with pytest.raises(UsageError, match="or widths such as 768x3072,512x512"):
            parse_shapes(text)
    with pytest.raises(UsageError, match=r"shapes 'bert-bas': did you mean bert-base"):
        parse_shapes("bert-bas")


def test_products_of_a_program_with_their_rows() -> None:
    import numpy as np

    builder = Builder("net")
    x = builder.input("x", f32["B", "S", 16])
    inner = builder.constant("w1", np.ones((32, 16), np.float32))
    outer = builder.constant("w2", np.ones((32, 8), np.float32))
    h = builder.op("linear", x, inner)
    h2 = builder.op("linear", x, inner)
    y = builder.op("matmul", builder.op("add", h, h2), outer)
    graph = builder.finish([y])
    found = of_graph(graph)
    assert [(one.k, one.n, one.count) for one in found] == [(16, 32, 2), (32, 8, 1)]
    assert found[0].rows == Dim.of("B") * Dim.of("S")
    assert rows_at(found[0], {"B": [1, 4], "S": [8]}).rows == (8, 32)
    with pytest.raises(UsageError, match=r"size S of .* is not given; given: B; add --at S=8,128"):
        rows_at(found[0], {"B": [1]})
    with pytest.raises(UsageError, match="give --rows"):
        rows_at(Shape(1, 1), {})
    with pytest.raises(UsageError, match=r"nothing to profile in empty \(0 linear products\)"):
        empty = Builder("empty")
        of_graph(empty.finish([empty.op("relu", empty.input("x", f32[2]))]))
