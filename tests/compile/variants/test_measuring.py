"""Cells of a profile: order, budget, and going on where it stopped."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlsysopt.compile.variants.calibration import Roofline
from mlsysopt.compile.variants.machine import MachineProfile
from mlsysopt.compile.variants.measuring import Progress, order
from mlsysopt.compile.variants.site import Site
from tests.compile.variants.planted import Planted, row


def profile() -> MachineProfile:
    """A profile in memory whose bounds are known."""
    return MachineProfile(_roofline=Roofline(1e11, 1e10, measured=True))


def test_measures_what_is_missing_and_tells() -> None:
    known, told = profile(), list[Progress]()
    known.add([row("test.a", 8, 16, 16, 1e-4)])
    sites = [Site.linear(m, 16, 16) for m in (1, 8, 64)]
    found = known.measure(sites, [Planted("test.a")], residency="cold", progress=told.append)
    assert {one.site.number("M") for one in found} == {1, 64}
    assert [(seen.done, seen.cells, len(seen.rows)) for seen in told] == [(1, 2, 1), (2, 2, 1)]
    assert known.measure(sites, [Planted("test.a")]) == []


def test_a_newer_version_is_measured_again() -> None:
    known, site = profile(), Site.linear(8, 16, 16)
    known.measure([site], [Planted("test.a")])
    (found,) = known.measure([site], [Planted("test.a", version="2")])
    assert found.version == "2"


def test_a_variant_that_refuses_leaves_no_cell_open() -> None:
    known, sites = profile(), [Site.linear(m, 16, 16) for m in (1, 8)]
    found = known.measure(sites, [Planted("test.a"), Planted("test.few", most=1)])
    assert len(found) == 3
    assert known.measure(sites, [Planted("test.a"), Planted("test.few", most=1)]) == []


def test_stops_at_the_budget_and_goes_on() -> None:
    known, sites = profile(), [Site.linear(m, 16, 16) for m in (1, 2, 4, 8, 16, 32, 64, 128)]
    slow = Planted("test.a", base_s=4e-3)
    found = known.measure(sites, [slow], budget_s=0.1)
    assert 1 <= len(found) < 8
    rest = known.measure(sites, [slow])
    assert {one.site for one in found} | {one.site for one in rest} == set(sites)
    assert len(found) + len(rest) == 8
    assert known.measure(sites, [slow], budget_s=0.0) == []


def test_the_first_cells_span_the_range() -> None:
    turns = order([Site.linear(m, 64, 64) for m in (1, 2, 4, 8, 16, 32, 64, 128, 256)])
    assert [site.number("M") for site in turns[0]][:3] == [1, 256, 16]


def test_weights_take_turns() -> None:
    sites = [Site.linear(m, n, 64) for n in (16, 32) for m in (1, 2, 4, 8, 16, 32, 64, 128)]
    turns = order(sites)
    assert [(turn[0].number("N"), len(turn)) for turn in turns] == [(16, 6), (32, 6), (16, 2), (32, 2)]


@given(st.lists(st.tuples(st.integers(1, 600), st.sampled_from([8, 16, 24])), max_size=40))
def test_every_site_comes_once(cells: list[tuple[int, int]]) -> None:
    sites = [Site.linear(m, n, 8) for m, n in cells]
    turns = order(sites, known=sites[:3])
    flat = [site for turn in turns for site in turn]
    assert len(flat) == len(set(flat))
    assert set(flat) == set(sites)
    assert all(len({site.number("N") for site in turn}) == 1 for turn in turns)
