"""Times: cold copies, interleaving, intervals, and who is dropped."""

from __future__ import annotations

import pytest
import torch

from mlsysopt.compile.variants import aten, panel
from mlsysopt.compile.variants.site import Epilogue, Site
from mlsysopt.compile.variants.timing import Bench, time_variants, weight_bytes
from mlsysopt.core.errors import UsageError
from tests.compile.variants.planted import Planted

SITE = Site.linear(3, 32, 16)


def test_tells_what_was_planted() -> None:
    slow, quick = Planted("test.slow", base_s=2.2e-4), Planted("test.quick")
    rows = {row.variant: row for row in Bench(SITE, [slow, quick], residency="warm", block_s=5e-4).measure(3)}
    for one in (slow, quick):
        found = rows[one.name]
        # A clock that is read in a loop overshoots a little, never the other way.
        assert one.base_s <= found.low <= found.seconds <= found.high
        assert found.seconds < 1.5 * one.base_s
        assert (found.site, found.residency, found.clock, found.blocks) == (SITE, "warm", "thread", 10)
        assert not found.dropped


def test_the_hopeless_are_dropped_but_never_the_baseline() -> None:
    quick = Planted("test.quick", base_s=1e-4)
    lost = Planted("test.lost", base_s=4e-4)
    baseline = Planted("aten.nt", base_s=4e-4)
    rows = {r.variant: r for r in Bench(SITE, [baseline, lost, quick], residency="warm", block_s=4e-4).measure(3)}
    assert rows["test.lost"].blocks == 2
    assert rows["test.lost"].dropped
    assert rows["aten.nt"].blocks == rows["test.quick"].blocks == 10
    assert rows["test.lost"].low < rows["test.lost"].seconds < rows["test.lost"].high


def test_what_is_more_exact_is_not_measured_against_what_rounds() -> None:
    """A variant in f32 stays in the race when one in int8 is far ahead, and not the other way about."""
    exact = Planted("test.exact", base_s=3e-4, exact=1e-6)
    coarse = Planted("test.coarse", base_s=1e-4, exact=1e-2)
    late = Planted("test.late", base_s=6e-4, exact=1e-2)
    rows = {r.variant: r for r in Bench(SITE, [exact, coarse, late], residency="warm", block_s=6e-4).measure(3)}
    assert not rows["test.exact"].dropped
    assert rows["test.late"].dropped


def test_cold_weights_are_rotated_and_warm_ones_are_not() -> None:
    cold, warm = Planted("test.cold", base_s=1e-5), Planted("test.warm", base_s=1e-5)
    big = Site.linear(2, 1024, 1024)
    (row,) = Bench(big, [cold], block_s=5e-4).measure(2)
    assert row.copies == len(cold.packed) > 1
    assert len({id(one) for one in cold.packed}) == row.copies, "each copy is another array"
    assert len(set(cold.called)) == min(row.copies, len(cold.called))
    (row,) = Bench(big, [warm], residency="warm", block_s=5e-4).measure(2)
    assert (row.copies, len(warm.packed), len(set(warm.called))) == (1, 1, 1)


def test_candidates_take_turns() -> None:
    """Blocks run forth and back, so that a machine that slows down slows all of them down."""
    order: list[str] = []

    class Telling(Planted):
        def bind(self, site: Site, packed: object, bias: object) -> object:  # type: ignore[override]
            inner = super().bind(site, packed, bias)  # type: ignore[arg-type]

            def call(*given: object) -> object:
                order.append(self.name)
                return inner(*given)

            return call

    made = [Telling(f"test.{name}", base_s=6e-4) for name in "abc"]
    Bench(SITE, made, residency="warm", block_s=5e-4).measure(3)
    blocks = "".join(name[-1] for name in order)
    assert blocks.endswith("abccba" * 5)


def test_those_that_refuse_have_no_row() -> None:
    few = Planted("test.few", base_s=1e-5, most=2)
    many = Planted("test.many", base_s=1e-5)
    bench = Bench(Site.linear(1, 32, 16), [few, many], residency="warm", block_s=2e-4)
    assert [row.variant for row in bench.measure(2)] == ["test.few", "test.many"]
    assert [row.variant for row in bench.measure(3)] == ["test.many"]
    assert [row.variant for row in bench.measure(2, only={"test.few"})] == ["test.few"]


def test_real_variants_with_everything_a_site_may_ask() -> None:
    site = Site.linear(4, 64, 48, epilogue=Epilogue(True, "relu", True))
    rows = time_variants(site, [aten.nt(), aten.nn()], residency="warm")
    assert [row.variant for row in rows] == ["aten.nt", "aten.nn"]
    assert all(0 < row.low <= row.seconds <= row.high < 1e-2 for row in rows)
    assert all(row.pack_s >= 0 for row in rows)


def test_several_threads_are_timed_by_the_wall_and_put_back() -> None:
    before = torch.get_num_threads()
    (row,) = Bench(Site.linear(3, 32, 16, threads=2), [Planted("test.a", base_s=1e-4)], block_s=2e-4).measure(3)
    assert row.clock == "wall"
    assert row.seconds >= 1e-4
    assert torch.get_num_threads() == before


def test_narrow_weights_are_told_by_the_variant() -> None:
    assert weight_bytes(Planted("test.a")) == 4
    assert weight_bytes(panel.f32()) == 4
    assert weight_bytes(aten.int8_dynamic()) == 1


def test_an_unknown_residency() -> None:
    with pytest.raises(UsageError, match="residency 'tepid': allowed are 'cold' and 'warm'"):
        Bench(SITE, [], residency="tepid")
