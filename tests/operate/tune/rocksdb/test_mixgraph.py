"""The mixgraph stream against its own definition: shares, hotness, power law, Pareto amounts."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mlsysopt.core.errors import UsageError
from mlsysopt.operate.tune.rocksdb.embedded_stream import FLAGS
from mlsysopt.operate.tune.rocksdb.mixgraph import GET, PUT, SEEK, key_numbers, mixgraph, pareto, range_shares
from mlsysopt.operate.tune.rocksdb.workloads import WORKLOADS

DEFAULTS = {name: flag.default for name, flag in FLAGS.items()}
PRESET = {**DEFAULTS, **WORKLOADS["mixgraph"].flags}
HOTNESS = (14.18, -2.917, 0.0164, -0.08082)
N = 100_000


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_kinds_come_in_their_shares() -> None:
    kinds = mixgraph(PRESET, N, rng()).kinds
    for kind, share in ((GET, 0.806), (PUT, 0.16), (SEEK, 0.034)):
        assert (kinds == kind).mean() == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / N))


def test_shares_need_not_add_up_to_one() -> None:
    flags = {**PRESET, "mix_get_ratio": 3, "mix_put_ratio": 1, "mix_seek_ratio": 0}
    assert (mixgraph(flags, N, rng()).kinds == GET).mean() == pytest.approx(0.75, abs=0.01)


def test_hotness_is_the_two_term_exponential() -> None:
    a, b, c, d = HOTNESS
    x = np.arange(1, 31)
    expected = a * np.exp(b * x) + c * np.exp(d * x)
    shares = range_shares(30, *HOTNESS)
    assert np.sort(shares) == pytest.approx(np.sort(expected / expected.sum()))
    assert not np.array_equal(shares, np.sort(shares)[::-1]), "hot ranges must not all lie at one end"


def test_key_ranges_are_asked_for_by_their_hotness() -> None:
    keys = mixgraph(PRESET, N, rng()).keys
    counts = np.bincount(keys // (120_000 // 30), minlength=30)
    expected = range_shares(30, *HOTNESS) * N
    assert stats.chisquare(counts, expected).pvalue > 1e-4


def test_inside_a_range_keys_are_uniform_without_a_power_law() -> None:
    keys = key_numbers({**PRESET, "num": 3000}, N, rng())
    hot = int(np.argmax(range_shares(30, *HOTNESS)))
    counts = np.bincount(keys[keys // 100 == hot] % 100, minlength=100)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_the_power_law_gives_ranks_their_share() -> None:
    # Cumulative share a r^b: ranks 1, 2, 3, 4 get sqrt(r)/2 - sqrt(r - 1)/2, and there are no others.
    keys = key_numbers({**DEFAULTS, "num": 1_000_000, "key_dist_a": 0.5, "key_dist_b": 0.5}, N, rng())
    numbers, counts = np.unique(keys, return_counts=True)
    expected = np.diff(np.sqrt(np.arange(5)) / 2)
    assert np.sort(counts)[::-1] / N == pytest.approx(expected, abs=0.01)
    assert np.ptp(numbers) > 1000, "popular keys must be scattered"


def test_popular_keys_are_the_same_in_every_run() -> None:
    flags = {**PRESET, "key_dist_a": 0.5, "key_dist_b": 0.5}
    tops = [np.argsort(np.bincount(key_numbers(flags, N, rng(seed))))[-4:].tolist() for seed in (1, 2)]
    assert tops[0] == tops[1]


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
    assert steps.mean() == pytest.approx(506.3, rel=0.2)


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
    keys = key_numbers(flags, 500, rng(seed))
    assert keys.dtype == np.int64 and 0 <= keys.min() <= keys.max() < num


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"mix_get_ratio": 0, "mix_put_ratio": 0, "mix_seek_ratio": 0}, "must be shares"),
        ({"mix_put_ratio": -0.1}, "must be shares"),
        ({"num": 10}, "30 key ranges need at least as many keys, got num=10"),
        ({"keyrange_dist_a": -1.0, "keyrange_dist_c": -1.0}, "no key range is ever asked for"),
        ({"keyrange_dist_b": 1000.0}, "one infinitely often"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
def test_nonsense_is_refused_with_its_numbers(flags: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        mixgraph({**PRESET, **flags}, 10, rng())
