"""Models run as ordinary Python: the language, missing data, and every error."""

# What a model draws is read by nobody in it.
# ruff: noqa: B007, F841, SIM108

from __future__ import annotations

import math
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import mlsysopt.infer.language as words
from mlsysopt.core.errors import UsageError
from mlsysopt.infer.interpret import interpret
from mlsysopt.infer.language import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Dirichlet,
    Exponential,
    Flat,
    HalfFlat,
    Multinomial,
    MultivariateNormal,
    Normal,
    Poisson,
    Shape,
    array,
    dot,
    factor,
    observe,
    reduce,
)
from mlsysopt.infer.language import Normal as Gauss
from tests.infer.models import cases
from tests.infer.models_by_hand import BY_HAND
from tests.infer.written import run_text, written

CASES = {case.name: case for case in cases()}
HERE = Path(__file__).name
LIMIT = 3.0


# Order.


def test_ordered_alike_components_are_sorted_and_lack_the_constant() -> None:
    run = run_text("x = Normal(1.0, 2.0).rows(4).ordered()", seed=3)
    assert (np.diff(run.values["x"]) > 0).all()
    assert run.log_joint == pytest.approx(stats.norm(1, 2).logpdf(run.values["x"]).sum())
    assert run_text("x = Normal(0.0, 1.0).rows(2).ordered()", values={"x": [1.0, 0.0]}).log_joint == -math.inf
    assert run_text("x = Normal(0.0, 1.0).rows(2).ordered()", values={"x": [1.0, 1.0]}).log_joint == -math.inf


def test_ordered_components_of_their_own_are_drawn_by_rejection() -> None:
    draws = [run_text("x = Normal(m, 1.0).rows(2).ordered()", {"m": [1.0, 0.0]}, seed=s).values["x"] for s in range(60)]
    assert all(low < high for low, high in draws)
    run = run_text("x = Normal(m, 1.0).rows(2).ordered()", {"m": [1.0, 0.0]}, values={"x": [0.2, 0.3]})
    assert run.log_joint == pytest.approx(stats.norm([1, 0], 1).logpdf([0.2, 0.3]).sum())


def unlikely_order(m):
    x = Normal(m, 0.001).rows(2).ordered()


def ordered_alone():
    x = Normal(0.0, 1.0).ordered()


def ordered_labels():
    x = Poisson(2.0).rows(2).ordered()


# Errors.


def refused(function, inputs, line: int, *says: str, **options) -> str:
    """Assert the message of a refusal, which names a line counted from the `def`."""
    with pytest.raises(UsageError) as caught:
        interpret(function, inputs, **options)
    message = str(caught.value)
    assert message.startswith(f"{HERE}:{function.__code__.co_firstlineno + line}: "), message
    assert message.count(f"{HERE}:") == 1
    for one in says:
        assert one in message
    assert caught.value.exit_code == 2
    frames = [frame for frame in traceback.extract_tb(caught.value.__traceback__) if frame.name == function.__name__]
    if frames:
        assert frames[-1].filename == __file__
        assert frames[-1].lineno == function.__code__.co_firstlineno + line
    return message


def test_order_that_cannot_be_drawn() -> None:
    refused(unlikely_order, {"m": [9.0, 1.0]}, 1, "no ascending draw in 10000 tries")
    refused(ordered_alone, {}, 1, "after .rows(n)")
    refused(ordered_labels, {}, 1, "continuous")


def cell_twice(n: int):
    z = array(float, n)
    for t in range(n):
        z[t] = Normal(0.0, 1.0)
    z[n - 1] = 2.0


def name_twice():
    a = 1.0
    a = Normal(a, 1.0)


def drawn_in_a_loop(n: int):
    for i in range(n):
        mean = 0.5 * i
        x = Normal(mean, 1.0)


def summed(n: int):
    total = 0.0
    for i in range(n):
        total = total + i


def input_twice(y):
    y = Normal(0.0, 1.0)


def input_cell(y):
    y[0] = Normal(0.0, 1.0)


def row_twice(alpha):
    m = array(float, 2, 2)
    m[1, 0] = 0.5
    m[1] = Dirichlet(alpha)


def whole_draw_twice():
    x = Normal(0.0, 1.0).rows(3)
    x[0] = 1.0


def array_in_a_loop(n: int):
    for i in range(n):
        z = array(float, 2)
        z[0] = Normal(0.0, 1.0)


def test_every_cell_is_assigned_once() -> None:
    first = cell_twice.__code__.co_firstlineno + 3
    message = refused(cell_twice, {"n": 4}, 4)
    assert f"z[3] is assigned twice (first at line {first})" in message
    refused(name_twice, {}, 2, f"a is assigned twice (first at line {name_twice.__code__.co_firstlineno + 1})")
    refused(drawn_in_a_loop, {"n": 2}, 3, "x is assigned twice", "x = array(float, n)")
    refused(summed, {"n": 1}, 3, "total is assigned twice")
    refused(input_twice, {"y": 1.0}, 1, "y is assigned twice")
    refused(input_cell, {"y": np.zeros(2)}, 1, "observe(y[0], ...)")
    refused(row_twice, {"alpha": [1.0, 1.0]}, 3, "m[1, 0] is assigned twice")
    refused(whole_draw_twice, {}, 2, "x[0] is assigned twice")
    refused(array_in_a_loop, {"n": 2}, 2, "z is assigned twice", "before the loop")


def local_names(y, n: int):
    s = 0.0
    for i in range(n):
        if i % 2 == 0:
            mean = 1.0 * i
        else:
            mean = -1.0 * i
        twice = 2 * mean
        observe(y[i], Normal(twice + s, 1.0))
    for i in range(n):
        mean = 0.0


def test_a_computed_name_has_one_value_a_round() -> None:
    run = interpret(local_names, {"y": np.zeros(4), "n": 4})
    assert run.log_joint == pytest.approx(stats.norm([0, -2, 4, -6], 1).logpdf(0).sum())
    assert run.values == {}


def never_assigned():
    z = array(float, 3)
    z[0] = Normal(0.0, 1.0)
    z[1] = Normal(z[0] + z[2], 1.0)


def row_never_assigned():
    m = array(float, 2, 2)
    m[0, 0] = 0.5
    x = Categorical(m[0])


def name_never_assigned(n: int):
    if n > 3:
        a = 1.0
    x = Normal(a, 1.0)


def unknown_word():
    x = Normal(elsewhere(1.0), 1.0)  # noqa: F821


def nan_argument(v):
    x = Normal(v[1], 1.0)


def data_not_drawn_yet(y):
    for t in range(len(y)):
        observe(y[t], Normal(y[t - 1] if t > 1 else y[0], 1.0))


def test_used_before_it_is_assigned() -> None:
    refused(never_assigned, {}, 3, "z[2] uses a cell that was never assigned")
    refused(row_never_assigned, {}, 3, "never assigned, m[0, 1]")
    refused(name_never_assigned, {"n": 1}, 3, "a is used before it is assigned")
    refused(unknown_word, {}, 1, "elsewhere is used before")
    refused(nan_argument, {"v": [1.0, math.nan]}, 1, "mean is not a number")
    refused(data_not_drawn_yet, {"y": Shape(3)}, 2, "y[0]", "never assigned")


def wraps(y):
    for t in range(len(y)):
        observe(y[t], Normal(y[t - 1], 1.0))


def beyond(y):
    observe(y[len(y)], Normal(0.0, 1.0))


def label_with_a_fraction(y, m):
    observe(y, Normal(m[0.5], 1.0))


def too_deep(y):
    observe(y[0][0], Normal(0.0, 1.0))


def range_beyond(y):
    x = Normal(reduce("add", y[0:9]), 1.0)


def test_no_index_wraps_around() -> None:
    refused(wraps, {"y": np.zeros(3)}, 2, "y[t - 1]", "index -1 is outside of 0 ... 2")
    refused(beyond, {"y": np.zeros(3)}, 1, "index 3 is outside")
    refused(beyond, {"y": Shape(3)}, 1, "index 3 is outside")
    refused(label_with_a_fraction, {"y": 0.0, "m": [1.0]}, 1, "whole number, got 0.5")
    refused(too_deep, {"y": np.zeros(3)}, 1, "an index too many")
    refused(range_beyond, {"y": np.zeros(3)}, 1, "the range 0:9")


def no_scale():
    x = Normal(0.0)


def two_scales():
    x = Normal(0.0, 1.0, var=2.0)


def negative_scale(v: float):
    x = Normal(0.0, v)


def not_a_simplex():
    x = Categorical([0.5, 0.6])


def unknown_argument():
    x = Normal(0.0, scale=1.0)


def several_lines(v: float):
    x = Normal(
        0.0,
        v,
    )


def vector_for_a_number(m):
    x = Normal(m, 1.0)


def wrong_rows(m):
    x = Normal(m, 1.0).rows(2)


def upside_down():
    x = words.Uniform(2.0, 1.0)


def not_definite():
    x = MultivariateNormal([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]])


def in_an_expression():
    x = 2.0 * Normal(0.0, 1.0)


def as_an_argument():
    x = Normal(Normal(0.0, 1.0), 1.0)


def test_arguments_that_are_not_allowed() -> None:
    refused(no_scale, {}, 1, "exactly one of sd", "got none")
    refused(two_scales, {}, 1, "got sd, var")
    refused(negative_scale, {"v": -1.0}, 1, "sd must be above 0, got -1.0")
    refused(not_a_simplex, {}, 1, "add up to 1")
    refused(unknown_argument, {}, 1, "scale", "Normal(mean, sd=None, var=None, precision=None)")
    refused(several_lines, {"v": 0.0}, 1, "above 0")
    refused(vector_for_a_number, {"m": [1.0, 2.0]}, 1, "mean is a number", ".rows(2)")
    refused(wrong_rows, {"m": [1.0, 2.0, 3.0]}, 1, "3 rows for 2 copies")
    refused(upside_down, {}, 1, "low must be below high")
    refused(not_definite, {}, 1, "positive definite")
    refused(in_an_expression, {}, 1, "name on a line of its own")
    refused(as_an_argument, {}, 1, "name on a line of its own")


def flat(y):
    m = Flat()
    s = HalfFlat()
    observe(y, Normal(m, s))


def test_improper_distributions_have_density_one_and_cannot_be_drawn() -> None:
    refused(flat, {"y": 1.0}, 1, "m is Flat", "values={'m': ...}")
    refused(flat, {"y": 1.0}, 2, "s is HalfFlat", values={"m": 0.0})
    run = interpret(flat, {"y": 1.0}, values={"m": 0.0, "s": 2.0})
    assert run.log_joint == run.log_likelihood == pytest.approx(stats.norm(0, 2).logpdf(1.0))


def test_values_that_do_not_fit() -> None:
    case = CASES["h-markov"]
    for values, says in (
        ({"zz": 1}, "did you mean z?"),
        ({"z": np.zeros(29)}, "array of shape (30,)"),
        ({"z": np.full(30, 0.5)}, "whole number"),
        ({"move": np.full((2, 2), np.nan)}, "nan"),
        ({"z": "abc"}, "z"),
    ):
        with pytest.raises(UsageError, match="values") as caught:
            interpret(case.function, case.inputs, values=values)
        assert says in str(caught.value)
    with pytest.raises(UsageError, match="mean is computed, not drawn"):
        interpret(local_names, {"y": np.zeros(1), "n": 1}, values={"mean": 0.0})
    assert run_text("x = Normal(0.0, 1.0)", values={"x": np.array([2.0])}).values == {"x": 2.0}
    ragged = CASES["j-topics"]
    flat_z = np.arange(33) % 2
    rows = interpret(ragged.function, ragged.inputs, values={"z": flat_z}).values["z"]
    assert np.concatenate(rows).tolist() == flat_z.tolist()
    with pytest.raises(UsageError, match=r"ragged rows of lengths \[9, 5, 12, 7\]"):
        interpret(ragged.function, ragged.inputs, values={"z": flat_z[1:]})


def test_inputs_that_do_not_fit() -> None:
    case = CASES["i-drifting"]
    for inputs, says in (
        ({"y": Shape(3)}, "needs the input 'drift'"),
        ({"y": Shape(3), "drift": 0.9, "dritf": 1}, "did you mean drift?"),
        ({"y": np.zeros((2, 2, 2)), "drift": 0.9}, "input y"),
        ({"y": ["a"], "drift": 0.9}, "input y"),
        ({"y": [[1.0, 2.0], ["a"]], "drift": 0.9}, "input y[1]"),
    ):
        with pytest.raises(UsageError) as caught:
            interpret(case.function, inputs)
        assert says in str(caught.value)
    with pytest.raises(UsageError, match="seed must be a whole number from 0"):
        interpret(case.function, case.inputs, seed=-1)
    with pytest.raises(UsageError, match='"latent"'):
        interpret(case.function, case.inputs, missing="drop")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="made by def"):
        interpret(3, {})


def wrong_kind():
    z = array(int, 2)
    z[0] = Normal(0.0, 1.0)


def wrong_number():
    z = array(int, 2)
    z[0] = 0.5


def wrong_row():
    m = array(float, 2, 2)
    m[0] = Normal(0.0, 1.0)


def wrong_array(n: float):
    z = array(float, n)


def two_targets():
    a, b = 1.0, 2.0


def accumulated(n: int):
    a = 1.0
    a += n


def observed_rows(y):
    observe(y, Normal(0.0, 1.0))


def observed_latent(y):
    x = observe(y, Normal(0.0, 1.0))


def observed_nothing(y):
    observe(y, 1.0)


def observed_wrong(y):
    observe(y)


def observed_twice(y):
    for i in range(2):
        observe(y[0], Normal(0.0, 1.0))


def made_outside():
    return Normal(0.0, 1.0)


def helped():
    x = made_outside()


def test_statements_that_do_not_fit() -> None:
    refused(wrong_kind, {}, 2, "z[0] is int, Normal is not")
    refused(wrong_number, {}, 2, "z[0] is int, got 0.5")
    refused(wrong_row, {}, 2, "Normal gives a number", "m[0] is an array of shape (2,)")
    refused(wrong_array, {"n": 1.5}, 1, "whole number")
    refused(two_targets, {}, 1, "cannot be assigned")
    refused(accumulated, {"n": 1}, 2, "a is assigned twice", "reduce(add")
    refused(observed_rows, {"y": np.zeros(3)}, 1, "y is an array of shape (3,)")
    refused(observed_latent, {"y": 1.0}, 1, "line of its own")
    refused(observed_nothing, {"y": 1.0}, 1, "a value and a distribution")
    refused(observed_wrong, {"y": 1.0}, 1, "a value and a distribution")
    refused(observed_twice, {"y": Shape(2)}, 2, "y[0] is observed twice")
    refused(helped, {}, 1, "outside of the model")


# Missing cells.


def series(y, a: float):
    m = Normal(0.0, 1.0)
    observe(y[0], Normal(m, 1.0))
    for t in range(1, len(y)):
        observe(y[t], Normal(m + a * y[t - 1], 1.0))


def counts(y, p):
    for n in range(len(y)):
        observe(y[n], Poisson(p))


def test_missing_cells() -> None:
    y = np.array([0.5, math.nan, 1.0, math.nan])
    message = refused(series, {"y": y, "a": 0.5}, 4, "y[1] is missing (nan)", 'missing="latent"')
    assert "y[1]" in message
    run = interpret(series, {"y": y, "a": 0.5}, missing="latent", seed=4)
    full, m = run.values["y"], run.values["m"]
    assert full[[0, 2]].tolist() == [0.5, 1.0]
    logs = stats.norm(m + 0.5 * np.array([0, *full[:-1]]), 1).logpdf(full)
    assert run.log_likelihood == pytest.approx(logs[[0, 2]].sum())
    assert run.log_joint == pytest.approx(logs.sum() + stats.norm.logpdf(m))
    assert np.isnan(run.observed["y"]).tolist() == [False, True, False, True]
    assert np.isnan(y[1])
    masked = np.ma.masked_array([0.5, 7.0, 1.0, 8.0], mask=[0, 1, 0, 1])
    given = interpret(series, {"y": masked, "a": 0.5}, missing="latent", values=run.values)
    assert (given.log_joint, given.log_likelihood) == (run.log_joint, run.log_likelihood)


def test_missing_whole_numbers_and_numbers() -> None:
    run = interpret(counts, {"y": [2.0, math.nan], "p": 3.0}, missing="latent")
    assert run.values["y"].dtype == np.int64
    assert run.values["y"][0] == 2
    assert run.log_likelihood == pytest.approx(stats.poisson(3).logpmf(2))
    one = interpret(flat, {"y": math.nan}, values={"m": 0.0, "s": 1.0}, missing="latent")
    assert one.values["y"] == one.values["y"]
    assert one.log_likelihood == 0.0
    row = np.array([[1.0, 2.0], [math.nan, 2.0]])
    with pytest.raises(UsageError, match=r"y\[1\] is missing in part"):
        run_text(
            "for n in range(2):\n    observe(y[n], MultivariateNormal([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]]))",
            {"y": row},
            missing="latent",
        )


def test_missing_cells_of_the_hierarchy() -> None:
    case = CASES["f-schools"]
    y = interpret(case.function, case.inputs, seed=1).observed["y"]
    y[[3, 20]] = math.nan
    run = interpret(case.function, {**case.inputs, "y": y}, missing="latent", seed=2)
    prior, likelihood = BY_HAND[case.name](run.values, {"y": run.values["y"]}, case.inputs)
    assert run.log_joint == pytest.approx(prior + likelihood, rel=1e-11)
    assert run.log_likelihood > likelihood


# The language.


def guarded(y, seen, K: int):
    b = array(float, K)
    c = array(int, K)
    for k in range(K):
        if seen[k] == 1:
            b[k] = Normal(0.0, 1.0)
            c[k] = Bernoulli(0.5)
            observe(y[k], Normal(b[k], 1.0))
        elif seen[k] == 2:
            factor(-1.5)


def test_what_no_path_assigns_is_nan_or_0() -> None:
    run = interpret(guarded, {"y": Shape(3), "seen": [1, 0, 2], "K": 3}, values={"c": [1, 1, 1]}, seed=1)
    assert np.isnan(run.values["b"]).tolist() == [False, True, True]
    assert run.values["c"].tolist() == [1, 0, 0]
    assert np.isnan(run.observed["y"]).tolist() == [False, True, True]
    b = run.values["b"][0]
    assert run.log_likelihood == pytest.approx(stats.norm(b, 1).logpdf(run.observed["y"][0]))
    assert run.log_joint == pytest.approx(run.log_likelihood + stats.norm.logpdf(b) + math.log(0.5) - 1.5)


def test_data_that_do_not_exist_yet_take_the_type_of_their_distribution() -> None:
    def mixed(y, n: int):
        for i in range(n):
            if i % 2 == 0:
                observe(y[i], Poisson(2.0))
            else:
                observe(y[i], Normal(0.0, 1.0))

    assert interpret(mixed, {"y": Shape(4), "n": 4}).observed["y"].dtype == np.float64
    assert interpret(mixed, {"y": Shape(4), "n": 1}).observed["y"].dtype == np.int64

    def rows(y, p):
        for i in range(len(y)):
            observe(y[i], Multinomial(5, p))

    drawn = interpret(rows, {"y": Shape(3, 2), "p": [0.5, 0.5]}).observed["y"]
    assert drawn.sum(axis=1).tolist() == [5, 5, 5]

    def whole(y, mean):
        observe(y, Normal(mean, 1.0).rows(len(y)))
        x = Normal(y[0], 1.0)

    run = interpret(whole, {"y": Shape(3), "mean": [0.0, 10.0, 20.0]}, seed=1)
    assert run.log_likelihood == pytest.approx(stats.norm([0, 10, 20], 1).logpdf(run.observed["y"]).sum())

    def number(y):
        observe(y, Poisson(4.0))
        x = Normal(y + 0.5, 1.0)

    run = interpret(number, {"y": Shape()}, seed=1)
    assert type(run.observed["y"]) is int
    assert abs(run.values["x"] - run.observed["y"]) < 6


def expressions(v, w, b: bool, k: int, m):
    n = len(v)
    total = array(float, n + 1)
    total[0] = 0.0
    for i in range(n):
        total[i + 1] = total[i] + v[i] ** 2
    flags = array(bool, 2)
    flags[0] = v[0] > 0.5 and not b
    flags[1] = b or v[0] < 0.5
    check = (
        total[n] + reduce("add", v[1:n]) + reduce(min, v) + dot(v, m[0]) + m.shape[1] + len(w[1]) + w[1][0] + w[1, 1]
    )
    whole = k // 2 + k % 2
    factor(check if flags[0] else 0.0)
    factor(whole + flags[1])
    factor(abs(-0.5) + max(1, 2))


def test_expressions() -> None:
    inputs = {
        "v": [1.0, 2.0],
        "w": [np.array([1]), np.array([2, 3])],
        "b": False,
        "k": 7,
        "m": np.array([[1.0, 2.0], [3.0, 4.0]]),
    }
    run = interpret(expressions, inputs)
    assert run.log_joint == pytest.approx((5 + 2 + 1 + 5 + 2 + 2 + 2 + 3) + (3 + 1 + 0) + 0.5 + 2)
    assert (run.log_likelihood, run.values) == (0.0, {})


def test_words_are_found_without_an_import() -> None:
    text = """\
for name in ("and", "or"):
    factor(reduce(name, [True, False]))
factor(exp(1000.0) - exp(1000.0) if False else log(exp(2.0)))
factor(sqrt(16.0) + log1p(0.0) + expm1(0.0) + sigmoid(0.0) + sigmoid(-800.0) + sigmoid(800.0))
factor(reduce(mul, [2, 3]) + reduce(add, [1, 2]) + reduce(max, [1, 5]) + reduce("mul", [1][0:0]))
factor(dot([1, 2], [3, 4]))
x = Normal(0.0, 1.0 if log(0.0) < 0 else exp(1000.0))
"""
    run = run_text(text, values={"x": 0.0})
    assert run.log_joint == pytest.approx(1 + 2 + 4 + 0.5 + 1 + 6 + 3 + 5 + 1 + 11 + stats.norm.logpdf(0))
    with pytest.raises(UsageError, match="reduce by sub: known operations"):
        run_text("factor(reduce('sub', [1]))")
    with pytest.raises(UsageError, match="two vectors of one length"):
        run_text("factor(dot([1], [1, 2]))")
    for weight in ("log(-1.0)", "v"):
        with pytest.raises(UsageError, match="factor: the log weight is not a number"):
            run_text(f"factor({weight})", {"v": [1.0]})


def differences(y, x):
    m = Normal(0.0, 1.0)
    for i in range(len(y)):
        observe(y[i] - x[i], Normal(m, 1.0))


def test_an_expression_of_the_data_is_observed_under_no_name() -> None:
    run = interpret(differences, {"y": [1.0, 2.0], "x": [0.5, 3.0]}, values={"m": 0.0})
    assert run.log_likelihood == pytest.approx(stats.norm.logpdf([0.5, -1.0]).sum())
    assert run.observed == {}
    refused(differences, {"y": [math.nan], "x": [0.5]}, 3, "y[i] - x[i] is not a number", values={"m": 0.0})


OWN = 2.0


def under_other_names(y):
    x = Gauss(OWN, 1.0)
    p = words.Beta(1.0, 1.0)
    words.observe(y[0], Gauss(x, LIMIT))


def test_words_under_other_names_and_the_modules_own() -> None:
    run = interpret(under_other_names, {"y": Shape(1)}, values={"x": 2.0, "p": 0.5})
    assert run.log_joint - run.log_likelihood == pytest.approx(stats.norm.logpdf(0))
    assert run.log_likelihood == pytest.approx(stats.norm(2, 3).logpdf(run.observed["y"][0]))
    assert words.Normal is Gauss


def test_names_of_a_surrounding_function() -> None:
    scale = 3.0

    def inner(y, mean: float = 1.0):
        """A model."""
        x: float = Exponential(scale)
        p = Beta(1.0, mean)
        observe(y, Binomial(4, p))

    run = interpret(inner, {"y": 1}, values={"x": 2.0, "p": 0.5})
    assert run.log_joint == pytest.approx(stats.expon(scale=1 / 3).logpdf(2.0) + math.log(0.25))


# Where it runs.


def test_breakpoints_and_tracebacks_are_those_of_the_file() -> None:
    case = CASES["i-drifting"]
    code = case.function.__code__
    seen: list[tuple[int, float | None]] = []

    def watch(frame, event, argument):
        if frame.f_code.co_filename == code.co_filename and frame.f_code.co_name == "drifting":
            seen.append((frame.f_lineno, frame.f_locals.get("step")))
        return watch

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        run = interpret(case.function, case.inputs, seed=3)
    finally:
        sys.settrace(before)
    lines = {line for line, _ in seen}
    assert lines == {line for _, _, line in code.co_lines() if line is not None}
    assert seen[-1][1] == run.values["step"]


def as_it_is(*options):
    return lambda function: function


@as_it_is(
    1,
    2,
)
@as_it_is()
def decorated(v: float):
    x = Normal(0.0, v)


def test_decorators_do_not_shift_lines() -> None:
    refused(decorated, {"v": -1.0}, 6, "above 0")


def breaks(n: int):
    x = Normal(0.0, 1.0)
    y = 1.0 / n


def test_an_error_of_the_model_itself_passes_with_its_line() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        interpret(breaks, {"n": 0})
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (last.filename, last.lineno) == (__file__, breaks.__code__.co_firstlineno + 2)
    assert last.line == "y = 1.0 / n"


def test_source_that_is_not_available() -> None:
    function, source = written("x = Normal(0.0, -1.0)")
    for given in (function, lambda: None):
        with pytest.raises(UsageError) as caught:
            interpret(given, {})
        assert "source" in str(caught.value)
        assert "put the model in a file as a def, or pass source=" in str(caught.value)
    with pytest.raises(UsageError, match=r"^<string>:2: Normal: sd must be above 0"):
        interpret(function, {}, source=source)
    with pytest.raises(UsageError, match="no def of that name"):
        interpret(function, {}, source="x = 1")
    with pytest.raises(UsageError, match="cannot be read"):
        interpret(function, {}, source="def one(:")
    indented = "\n    def one():\n        x = Normal(0.0, 1.0)\n"
    assert set(interpret(function, {}, source=indented).values) == {"x"}


def test_import_is_light() -> None:
    probe = "import mlsysopt.infer.interpret.execute, sys; print([m for m in ('scipy', 'numba') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
