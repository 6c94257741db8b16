"""Special functions against values to 20 digits (mpmath, at the double nearest to each argument) and SciPy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import linalg, special

from mlsysopt.infer.runtime import numerics
from mlsysopt.testing.distributions import compiled

LOG_GAMMA = [
    (1e-10, 23.025850929882735237),
    (0.001, 6.9071788853838536617),
    (0.3, 1.0957979948180755606),
    (0.9999, 5.7729791561193862808e-05),
    (1.0000001, -5.772155829918507097e-8),
    (1.46163, -0.12148629053362353021),
    (1.9999999, -4.2278430309861298194e-8),
    (2.00001, 4.2278755976483595969e-6),
    (7.5, 7.5343642367587329552),
    (10.5, 13.940625219403763633),
    (100.0, 359.13420536957539878),
    (1e6, 12815504.56914761166),
    (1e15, 33538776394910668.91),
]
DIGAMMA = [
    (1e-10, -10000000000.5772153),
    (0.3, -3.5025242222001331249),
    (1.0, -0.57721566490153286061),
    (1.4616321449683623, -9.2412655217294275168e-17),
    (7.5, 1.9467574842460867881),
    (25.0, 3.1987425128519740085),
    (1e8, 18.420680738952365464),
]
LOG_BETA = [
    (1e-10, 3.0, 23.025850929790456804),
    (0.5, 0.5, 1.1447298858494001741),
    (2.5, 1e12, -68.792869919350326361),
    (1e10, 1e10, -13862943621.44631953),
    (1e9, 0.25, -3.8927939344447753317),
    (12.0, 15.0, -18.568172732389434645),
]
SCALED_TAIL = [
    (0.0, 0.5),
    (0.3, 0.39967529734325514672),
    (0.67449, 0.31385433606271335074),
    (2.0, 0.16810200122317060643),
    (5.7, 0.068009190860588696693),
    (20.0, 0.019897615648327031592),
    (1000.0, 0.00039894188146034909736),
]
BEYOND = [
    (0.0, 0.5),
    (0.5, 0.30853753872598689636),
    (3.0, 0.0013498980316300945267),
    (10.0, 7.619853024160526066e-24),
    (37.0, 5.7255712225245768227e-300),
]
WITHIN = [
    (-1e-9, 2e-9, -20.543592081482974145),
    (-0.1, 0.2, -2.1278963696652225094),
    (-1.0, 3.0, -0.17435952045297590843),
    (-7.0, 8.0, -1.2804346399440819392e-12),
    (0.0, 0.5, -1.6530635142555676288),
]
TAIL_MASS = [
    (0.0, 1.0, -0.15592379365739863991),
    (2.0, 1e-6, -13.815511557964274149),
    (3.0, 1e-3, -6.9092550705238332347),
    (5.0, 0.5, -1.7146022780666148493),
    (40.0, 0.01, -4.7985274121635531475),
    (40.0, 5.0, -3.6895034805491154248),
]


@pytest.mark.parametrize(
    ("function", "table"),
    [
        (numerics.log_gamma, LOG_GAMMA),
        (numerics.digamma, DIGAMMA),
        (numerics.log_beta, LOG_BETA),
        (numerics.normal_scaled_tail, SCALED_TAIL),
        (numerics.normal_beyond, BEYOND),
        (numerics.normal_within, WITHIN),
        (numerics.normal_log_tail_mass, TAIL_MASS),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_values_to_twenty_digits(function: Callable[..., float], table: list[tuple[float, ...]]) -> None:
    for *at, expected in table:
        assert function(*at) == pytest.approx(expected, rel=1e-13, abs=1e-15), at


def test_log_gamma_everywhere() -> None:
    x = 10.0 ** np.random.default_rng(1).uniform(-10, 15, 2000)
    x = x[(abs(x - 1.0) > 0.1) & (abs(x - 2.0) > 0.1)]
    np.testing.assert_allclose([numerics.log_gamma(one) for one in x], special.gammaln(x), rtol=1e-13)
    np.testing.assert_allclose([numerics.digamma(one) for one in x], special.digamma(x), rtol=1e-12, atol=1e-13)


def test_pieces_join() -> None:
    for function, ends in (
        (numerics.log_gamma, (0.5, 1.5, 2.5, 10.0)),
        (numerics.digamma, (10.0,)),
        (numerics.normal_scaled_tail, (0.67448975, 5.656854249492381)),
        (numerics.log1p_square, (1e8,)),
        (numerics.square_pull, (1e8,)),
        (numerics.log1p_exp, (1e-300,)),
    ):
        for end in ends:
            below, above = (function(end * (1.0 + by)) for by in (-1e-15, 1e-15))
            assert below == pytest.approx(above, rel=1e-13), f"{function.__name__} at {end}"


def test_what_is_no_argument_is_nan() -> None:
    for function in (numerics.log_gamma, numerics.digamma):
        assert all(math.isnan(function(x)) for x in (0.0, -0.5, -3.0, -math.inf, math.nan))
    assert numerics.log_gamma(math.inf) == math.inf
    assert math.isnan(numerics.normal_log_tail_mass(1.0, 0.0)) and math.isnan(numerics.normal_within(0.0, 0.0))
    assert math.isnan(numerics.normal_log_tail_mass(math.inf, 1.0))


@pytest.mark.parametrize("seed", range(3))
def test_ratios_and_choices_are_those_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for x, a in 10.0 ** rng.uniform(-3, 3, (200, 2)):
        expected = special.gammaln(x + a) - special.gammaln(x)
        assert numerics.log_gamma_ratio(x, a) == pytest.approx(expected, rel=1e-11, abs=1e-11)
        assert numerics.log_beta(x, a) == pytest.approx(special.betaln(x, a), rel=1e-11, abs=1e-11)
        assert numerics.log_beta(x, a) == numerics.log_beta(a, x)
    for n, k in ((10, 3), (100, 100), (0, 0), (1000, 500), (7, 0)):
        assert numerics.log_choose(n, k) == pytest.approx(math.log(math.comb(n, k)), rel=1e-13, abs=1e-14)


def test_logarithms_neither_overflow_nor_raise() -> None:
    for x in (-1e300, -800.0, -1.0, 0.0, 1.0, 800.0, 1e300, math.inf):
        assert numerics.log1p_exp(x) == pytest.approx(float(np.logaddexp(0.0, x)), rel=1e-14)
    for x in (0.0, 1e-9, 3.0, 1e7, 1e9, 1e200, math.inf):
        square = 2.0 * math.log(x) if x > 1e8 else math.log1p(x * x)
        assert numerics.log1p_square(x) == numerics.log1p_square(-x) == pytest.approx(square)
    assert (numerics.times_log(0.0, 0.0), numerics.times_log(2.0, 0.0), numerics.times_log(-2.0, 0.0)) == (
        0.0,
        -math.inf,
        -math.inf,
    )
    assert (numerics.times_log1p(0.0, -1.0), numerics.times_log1p(1.0, -1.0)) == (0.0, -math.inf)
    assert numerics.times_log1p(3.0, -0.5) == numerics.times_log(3.0, 0.5) == 3.0 * math.log(0.5)


def test_what_a_parameter_may_be() -> None:
    assert [numerics.is_count(x) for x in (0, 5, 3.0, 2.0**53)] == [True] * 4
    assert [bool(numerics.is_count(x)) for x in (-1, 0.5, math.nan, math.inf, -math.inf, 2.0**54)] == [False] * 6
    assert [numerics.is_positive(x) for x in (1e-300, 1, 0.0, -1.0, math.inf, math.nan)] == [True] * 2 + [False] * 4
    assert [numerics.is_real(x) for x in (-1e300, 0, math.inf, -math.inf, math.nan)] == [True] * 2 + [False] * 3
    rows = ([0.5, 0.5], [1.0], [0.3333333] * 3, [0.5, 0.6], [1.5, -0.5], [math.nan, 1.0], [])
    assert [bool(numerics.is_simplex(np.array(row))) for row in rows] == [True] * 3 + [False] * 4


def test_cholesky_and_solving() -> None:
    rng = np.random.default_rng(1)
    for size in (1, 2, 6):
        half = rng.standard_normal((size, size + 2))
        matrix, root = half @ half.T, np.full((size, size), np.nan)
        assert numerics.cholesky(matrix, root)
        np.testing.assert_allclose(root, linalg.cholesky(matrix, lower=True), rtol=1e-9, atol=1e-12)
        b = rng.standard_normal(size)
        x = b.copy()
        numerics.solve_lower(root, x)
        np.testing.assert_allclose(root @ x, b, rtol=1e-9, atol=1e-12)
    for wrong in ([[1.0, 2.0], [2.0, 1.0]], [[1.0, 0.5], [0.0, 1.0]], [[0.0]], [[math.inf]], [[math.nan]]):
        matrix = np.array(wrong)
        assert not numerics.cholesky(matrix, np.empty_like(matrix)), wrong


def test_exponentials_of_many_numbers() -> None:
    rng = np.random.default_rng(1)
    x = np.concatenate([-rng.random(3000) * 708.0, -rng.random(3000) * 2.0, rng.random(500) * 700.0, [0.0, -708.0]])
    found = x.copy()
    numerics.exp_all(found)
    exact = np.exp(x.astype(np.longdouble))
    assert (np.abs(found - exact) <= np.spacing(exact.astype(float))).all()
    ends = np.array([0.0, -708.1, -1e300, -math.inf, math.nan])
    numerics.exp_all(ends)
    assert ends.tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]
    numerics.exp_all(np.empty(0))


def test_exponentials_are_the_same_bits_compiled() -> None:
    pytest.importorskip("numba")
    # Of every length, for a processor takes the last few numbers one by one.
    for size in range(1, 20):
        plain = -np.random.default_rng(size).exponential(30.0, size)
        native = plain.copy()
        numerics.exp_all(plain)
        compiled(numerics.exp_all)(native)
        assert np.array_equal(plain, native)
