"""Cost terms: the expression language of core, plus the ramp, minus everything unknown or negative."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlsysopt.train.estimate.characteristics import Characteristics
from mlsysopt.train.estimate.terms import TermError, Terms, numeric

SIZES = Characteristics(R=1000, U=50, I=200, Su=40_000, Si=9_000, Mu=90, Mi=70).with_ramp(W1=1e5, W2=1e7)


def test_columns_equal_python() -> None:
    terms = Terms(["n_epochs*n_factors*R", "n_epochs*Wu", "n_factors*(U + I)", "max(Mu, Mi)**2", "1"])
    found = terms.columns(SIZES.with_walk(Wu=0.25), {"n_epochs": 5, "n_factors": 8, "sim": "cosine", "biased": True})
    assert found.tolist() == [5 * 8 * 1000, 5 * 0.25, 8 * 250, 8100, 1]


def test_a_ramp_is_the_logarithmic_way_from_cache_to_memory() -> None:
    # 8 * 3 * 200^2 = 960,000 bytes.
    way = math.log(960_000 / 1e5) / math.log(1e7 / 1e5)
    terms = Terms(["Su*ramp(8*3*I**2)", "ramp(1)", "ramp(8*(I*I)*(U+1)) + ramp(R)"])
    assert np.allclose(terms.columns(SIZES, {}), [40_000 * way, 0.0, 1.0])
    assert terms.uses(0) == {"Su", "I"} and terms.uses(2) == {"I", "U", "R"} and terms.names == {"Su", "I", "U", "R"}


def test_numbers_among_the_parameters() -> None:
    given = {"n": 3, "lr": 0.5, "user_based": True, "kind": "means", "seed": None, "x": math.inf, "k": np.int64(4)}
    assert numeric(given) == {"n": 3.0, "lr": 0.5, "user_based": 1.0, "k": 4.0}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("n_epoch*R", r"term 'n_epoch\*R': unknown symbol 'n_epoch' at position 0: did you mean n_epochs\?"),
        ("R*Q", "unknown symbol 'Q' at position 2"),
        ("Su*ramp(8*J**2)", "unknown symbol 'J' at position 10"),
        ("R.real", "attribute access at position 0 is not allowed"),
        ("R + log(R)", r"'R \+ log\(R\)': a call of 'log' at position 4 is not allowed;\n.*ramp\(bytes\)"),
        ("__import__('os').system('x')", "not allowed"),
        ("Su*ramp(8*I", "the bracket of ramp at position 3 is never closed"),
        ("ramp(ramp(R))", "a ramp inside a ramp"),
        ("R*", "at position"),
        ("", "it is empty"),
    ],
)
def test_what_is_not_allowed_is_named_with_its_place(text: str, says: str) -> None:
    with pytest.raises(TermError, match=says) as caught:
        Terms(["R", text], params=["n_epochs"])
    assert caught.value.exit_code == 2
    assert len(str(caught.value).splitlines()) <= 3


def test_a_negative_term_is_named_with_its_values() -> None:
    with pytest.raises(TermError, match=r"term 2, 'U - I', is -150 at I = 200, U = 50"):
        Terms(["R", "U - I"]).columns(SIZES, {})
    with pytest.raises(TermError, match="is inf"):
        Terms(["R / (U - 50)"]).columns(SIZES, {})
    with pytest.raises(TermError, match="a working set is at least 0"):
        Terms(["ramp(U - I)"]).columns(SIZES, {})


def test_a_walk_that_was_not_timed_has_no_value() -> None:
    with pytest.raises(TermError, match=r"unknown symbol 'Wu' at position 9"):
        Terms(["n_epochs*Wu"], params=["n_epochs"]).columns(SIZES, {"n_epochs": 2})
