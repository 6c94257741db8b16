"""The mixgraph stream against its own definition and against keys that db_bench really asked for."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mlsysopt.core.errors import UsageError
from mlsysopt.operate.tune.rocksdb.embedded_stream import FLAGS
from mlsysopt.operate.tune.rocksdb.mixgraph import (
    GET,
    PUT,
    SEEK,
    _twister,
    key_ranges,
    mixgraph,
    pareto,
    to_key_numbers,
)
from mlsysopt.operate.tune.rocksdb.workloads import WORKLOADS

DEFAULTS = {name: flag.default for name, flag in FLAGS.items()}
PRESET = {**DEFAULTS, **WORKLOADS["mixgraph"].flags}
HOT = {**DEFAULTS, **WORKLOADS["mixgraph-hot"].flags}
HOTNESS = (14.18, -2.917, 0.0164, -0.08082)
N = 100_000
DRAWN = [
    345, 8243, 15005, 113315, 36806, 80643, 67268, 50768, 7987, 20155, 91105, 43989, 9326, 51768, 90508, 11699,
    105003, 70600, 115548, 103846, 39419, 12883, 50056, 107185,
]  # fmt: skip
HOT_KEYS = [
    119863, 118908, 119489, 116453, 107722, 116905, 117791, 91425, 118273, 116634, 118179, 119176, 117995, 117054,
    119473, 116019, 118717, 118329, 117962, 119964, 73354, 118745, 45596, 119006,
]  # fmt: skip
ACCESSES = [
    139, 322, 421, 161, 132, 142, 146, 1058, 333, 1495, 164, 745, 604, 462, 896, 755, 1197, 287, 638, 450, 727, 142,
    177, 5743, 430, 293, 282, 872, 150, 80637,
]  # fmt: skip


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_kinds_come_in_their_shares() -> None:
    kinds = mixgraph(PRESET, N, rng()).kinds
    for kind, share in ((GET, 0.806), (PUT, 0.16), (SEEK, 0.034)):
        assert (kinds == kind).mean() == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / N))


def test_shares_need_not_add_up_to_one() -> None:
    flags = {**PRESET, "mix_get_ratio": 3, "mix_put_ratio": 1, "mix_seek_ratio": 0}
    assert (mixgraph(flags, N, rng()).kinds == GET).mean() == pytest.approx(0.75, abs=0.01)


def test_shares_are_rounded_up_to_thousandths() -> None:
    flags = {**PRESET, "num": 1002, "mix_get_ratio": 1, "mix_put_ratio": 1, "mix_seek_ratio": 1}
    assert np.bincount(mixgraph(flags, N, Numbers(1002)).kinds[:1002]).tolist() == [334, 334, 334]


class Numbers(np.random.Generator):
    """Counts 0, 1, 2, ... instead of drawing, so that a distribution can be told exactly."""

    def __init__(self, num: int) -> None:
        super().__init__(np.random.PCG64(1))
        self.num = num

    def integers(self, low: int, high: int, size: int) -> Any:  # type: ignore[override]
        assert (low, high) == (0, self.num)
        return np.arange(size) % high


def test_without_a_law_of_keys_all_are_equally_likely() -> None:
    """As in db_bench: key ranges count for nothing unless key_dist_a and key_dist_b are both set."""
    every = np.arange(120_000)
    for law in ({}, {"key_dist_a": 0.002312}, {"key_dist_b": 0.3467}):
        assert np.array_equal(to_key_numbers({**PRESET, **law}, every), every)
    keys = mixgraph(PRESET, N, rng()).keys
    assert stats.chisquare(np.bincount(keys // 4000, minlength=30)).pvalue > 1e-4
    assert len(np.unique(keys)) / 120_000 == pytest.approx(1 - np.exp(-N / 120_000), abs=0.005)


def test_hotness_is_the_two_term_exponential() -> None:
    a, b, c, d = HOTNESS
    x = np.arange(1, 31)
    expected = a * np.exp(b * x) + c * np.exp(d * x)
    counts = key_ranges(30, *HOTNESS)
    # One number for the coldest range; rounding down takes at most one from each of the others.
    assert counts.min() == 1 and np.abs(np.sort(counts) - np.sort(expected / expected.min())).max() < 2
    assert not np.array_equal(counts, np.sort(counts)[::-1]), "hot ranges must not all lie at one end"


def test_key_ranges_are_asked_for_by_their_hotness() -> None:
    found = np.bincount(mixgraph(HOT, N, rng()).keys // 4000, minlength=30) / N
    shares = key_ranges(30, *HOTNESS) / key_ranges(30, *HOTNESS).sum()
    assert found == pytest.approx(shares, abs=0.005) and found.max() > 0.75


def test_keys_are_those_of_db_bench() -> None:
    # What db_bench 7.8.3 traced with --seed=1: uniform keys, and the keys of the hot preset in their place.
    drawn = np.array(DRAWN)
    assert to_key_numbers(HOT, drawn).tolist() == HOT_KEYS
    # And of 100,000 operations how many went to each range, which range that is included.
    every = np.bincount(to_key_numbers(HOT, np.arange(120_000)) // 4000, minlength=30)
    assert stats.chisquare(ACCESSES, every * (N / 120_000)).pvalue > 1e-3


def test_a_key_is_nearly_always_read_or_always_written() -> None:
    stream = mixgraph(HOT, N, rng())
    written = np.unique(stream.keys[stream.kinds == PUT])
    read = np.unique(stream.keys[stream.kinds != PUT])
    # db_bench's trace of as many operations: 902 keys written, 8359 read, 8932 in all.
    assert len(np.unique(stream.keys)) == pytest.approx(8932, rel=0.01)
    assert len(written) == pytest.approx(902, rel=0.05) and len(read) == pytest.approx(8359, rel=0.02)


def test_the_power_law_gives_ranks_their_share() -> None:
    # Cumulative share a r^b: ranks 1, 2, 3, 4 get sqrt(r)/2 - sqrt(r - 1)/2, and there are no others.
    flags = {**DEFAULTS, "num": 1_000_000, "key_dist_a": 0.5, "key_dist_b": 0.5}
    numbers, counts = np.unique(to_key_numbers(flags, np.arange(1_000_000)), return_counts=True)
    expected = np.diff(np.sqrt(np.arange(5)) / 2)
    assert np.sort(counts)[::-1][:4] / 1e6 == pytest.approx(expected, abs=1e-5)
    assert np.ptp(numbers) > 1000, "popular keys must be scattered"


def test_popular_keys_are_the_same_in_every_run() -> None:
    flags = {**PRESET, "key_dist_a": 0.5, "key_dist_b": 0.5}
    tops = [np.argsort(np.bincount(mixgraph(flags, N, rng(seed)).keys))[-4:].tolist() for seed in (1, 2)]
    assert tops[0] == tops[1]


def test_the_generator_is_the_64_bit_mersenne_twister() -> None:
    # C++ demands of std::mt19937_64 (seed 5489) that its 10,000th output is this one.
    words = _twister(np.array([5489], np.uint64), 10_000)
    assert (words[0, 0], words[-1, 0]) == (14514284786278117030, 9981545732273789042)
    together = _twister(np.array([7, 5489, 0], np.uint64), 3)
    assert np.array_equal(together[:, 1], words[:3, 0])


@pytest.mark.parametrize("k", [0.2615, 2.517, 0.0])
def test_pareto_is_the_generalised_pareto_distribution(k: float) -> None:
    u = np.linspace(0.01, 1.0, 50)
    expected = np.ceil(stats.genpareto.isf(u, k, loc=3.0, scale=25.45) - 1e-9)
    assert pareto(u, theta=3.0, k=k, sigma=25.45) == pytest.approx(expected)


def test_amounts_are_bytes_of_puts_and_steps_of_scans() -> None:
    stream = mixgraph(PRESET, N, rng())
    sizes, steps = stream.amounts[stream.kinds == PUT], stream.amounts[stream.kinds == SEEK]
    assert not stream.amounts[stream.kinds == GET].any()
    assert sizes.max() <= 1024 and np.quantile(sizes, 0.2) == 10 and 0 <= steps.min() <= steps.max() < 10_000
    # db_bench 7.8.3 with these flags, 300,000 operations: "avg size: 35.0 value, 506.3 scan".
    assert sizes.mean() == pytest.approx(35.0, rel=0.1)
    assert steps.mean() == pytest.approx(506.3, rel=0.1)


def test_what_no_64_bit_number_holds_is_nothing() -> None:
    """At u = 0 the tails have no end; db_bench makes the smallest value and no scan of it."""
    flags = {**PRESET, "num": 1, "mix_get_ratio": 0, "mix_put_ratio": 1, "mix_seek_ratio": 0}
    assert mixgraph(flags, 5, rng()).amounts.tolist() == [10] * 5
    assert mixgraph({**flags, "mix_put_ratio": 0, "mix_seek_ratio": 1}, 5, rng()).amounts.tolist() == [0] * 5
    assert pareto(np.array([0.0, 1e-9, 1.0]), theta=0.0, k=2.517, sigma=14.236).tolist() == [0.0, 0.0, 0.0]


def test_the_same_seed_gives_the_same_stream() -> None:
    one, same, other = (mixgraph(PRESET, 1000, rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(one.keys, same.keys) and np.array_equal(one.amounts, same.amounts)
    assert not np.array_equal(one.keys, other.keys)


@settings(max_examples=60, deadline=None)
@given(
    num=st.integers(50, 10**9),
    ranges=st.integers(1, 50),
    hotness=st.sampled_from([(0.0, 0.0, 0.0, 0.0), HOTNESS, (1.0, -1.0, 0.0, 0.0)]),
    law=st.sampled_from([(0.0, 0.0), (0.002312, 0.3467), (0.5, 0.05)]),
    seed=st.integers(0, 2**31),
)
def test_every_key_exists(
    num: int, ranges: int, hotness: tuple[float, ...], law: tuple[float, float], seed: int
) -> None:
    flags: dict[str, Any] = {**DEFAULTS, "num": num, "keyrange_num": ranges}
    flags |= {f"keyrange_dist_{term}": value for term, value in zip("abcd", hotness, strict=True)}
    flags |= {"key_dist_a": law[0], "key_dist_b": law[1]}
    keys = mixgraph(flags, 500, rng(seed)).keys
    assert keys.dtype == np.int64 and 0 <= keys.min() <= keys.max() < num


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"mix_get_ratio": 0, "mix_put_ratio": 0, "mix_seek_ratio": 0}, "must be shares"),
        ({"mix_put_ratio": -0.1}, "must be shares"),
        ({"key_dist_b": -1.0}, "must be above 0, or 0 for uniform keys, got 0.002312 and -1.0"),
        ({"num": 10}, "30 key ranges need at least as many keys, got num=10"),
        ({"keyrange_dist_a": -1.0, "keyrange_dist_c": -1.0}, "no key range is ever asked for"),
        ({"keyrange_dist_b": 1000.0}, "one infinitely often"),
        ({"keyrange_dist_a": 1e300, "keyrange_dist_b": -20.0, "keyrange_dist_c": 0.0}, "one infinitely often"),
    ],
)
def test_nonsense_is_refused_with_its_numbers(flags: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        mixgraph({**HOT, **flags}, 10, rng())
