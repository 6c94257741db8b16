"""Every construct of the language, as the sites that it becomes."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest

from mlsysopt.infer.distributions import ALL
from mlsysopt.infer.ir import Const, For, Get, If, Index, Size, Vector
from mlsysopt.infer.language import DISTRIBUTIONS, Shape
from tests.golden.infer.regenerate import programs
from tests.infer.frontend.bodies import bound, sites

Y = [0.5, 1.5, 2.5]
N = [1, 2, 0]
M = np.arange(6.0).reshape(3, 2)
RAGGED = [np.array([1, 0]), np.array([2]), np.array([0, 1, 2])]


def test_golden_programs() -> None:
    assert programs() == (Path(__file__).parents[2] / "golden" / "infer" / "programs.txt").read_text()


def drawn_mean(expression: str, **inputs: object) -> str:
    """Return the mean of a Normal whose mean is an expression, as text."""
    (site,) = sites(f"x = Normal({expression}, 1.0)", **inputs)
    return site.removeprefix("x ~ Normal(").removesuffix(", 1.0)")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("a + b - 2.0", "(a + b) - 2.0"),
        ("a * b / 3.0", "(a * b) / 3.0"),
        ("n // 2 + n % 2", "(n // 2) + (n % 2)"),
        ("a ** 2", "a ** 2"),
        ("-a", "-a"),
        ("+a", "a"),
        ("1.0 if a < b else 2.0", "(1.0 if (a < b) else 2.0)"),
        ("1 if 0 < n <= 3 else 0", "(1 if ((0 < n) and (n <= 3)) else 0)"),
        ("1 if a > b and not n == 2 or n != 3 else 0", "(1 if (((a > b) and not (n == 2)) or (n != 3)) else 0)"),
        ("abs(a) + exp(a) + log(b)", "(abs(a) + exp(a)) + log(b)"),
        ("sqrt(b) + log1p(a) + expm1(a) + sigmoid(a)", "((sqrt(b) + log1p(a)) + expm1(a)) + sigmoid(a)"),
        ("math.exp(a) + np.log(b)", "exp(a) + log(b)"),
        ("min(a, b) + max(a, b, 1.0)", "min(a, b) + max(max(a, b), 1.0)"),
        ("float(n) + int(n)", "n + n"),
        ("math.pi * 1", "3.141592653589793"),
    ],
)
def test_expressions(written: str, read: str) -> None:
    assert drawn_mean(written, a=0.5, b=2.5, n=2) == read


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("y[0] + y[len(y) - 1]", "y[0] + y[len(y) - 1]"),
        ("y[n[0]]", "y[n[0]]"),
        ("m[0, 1] + m[1][0]", "m[0, 1] + m[1, 0]"),
        ("m.shape[0] + m.shape[1] + y.shape[0] + len(m[0])", "((len(m) + m.shape[1]) + len(y)) + len(m[0])"),
        ("dot(m[0], m[1])", "reduce(add, m[0, k] * m[1, k] for k in 0..m.shape[1])"),
        ("reduce(add, y)", "reduce(add, y[k] for k in 0..len(y))"),
        ("reduce('max', y[1:])", "reduce(max, y[k] for k in 1..len(y))"),
        ("reduce(operator.mul, y[:2])", "reduce(mul, y[k] for k in 0..2)"),
        ("reduce(min, m[1])", "reduce(min, m[1, k] for k in 0..m.shape[1])"),
        ("1 if reduce('and', n[0:2]) else 0", "(1 if reduce(and, n[k] for k in 0..2) else 0)"),
        ("1 if reduce('or', n) else 0", "(1 if reduce(or, n[k] for k in 0..len(n)) else 0)"),
    ],
)
def test_arrays(written: str, read: str) -> None:
    said = drawn_mean(written, y=Y, n=N, m=M)
    assert said.replace("len(m[0])", "m.shape[1]") == read.replace("len(m[0])", "m.shape[1]")


def test_ragged_rows() -> None:
    found = sites(
        """for d in range(len(w)):
    for i in range(len(w[d])):
        observe(w[d, i], Poisson(1.0))
    observe(k[d], Poisson(float(len(w[d]))))""",
        w=RAGGED,
        k=N,
    )
    assert found == [
        "observe w[d, i] ~ Poisson(1.0) for d in 0..len(w) for i in 0..len(w[d])",
        "observe k[d] ~ Poisson(len(w[d])) for d in 0..len(w)",
    ]


def test_array_like_a_ragged_input() -> None:
    model = bound(
        """z = array(int, like=w)
for d in range(len(w)):
    for i in range(len(z[d])):
        z[d, i] = Bernoulli(0.5)""",
        {"w": RAGGED},
    )
    z = model.program.variables["z"]
    assert (z.ragged, z.like, z.rank, z.kind) == (True, "w", 2, "int")
    assert model.lengths(z) == (6,)
    assert str(model.program.sites[0]) == "5: z[d, i] ~ Bernoulli(0.5) for d in 0..len(w) for i in 0..len(w[d])"


def test_array_like_a_plain_input() -> None:
    model = bound(
        "b = array(float, like=m)\nfor i in range(len(m)):\n    for j in range(2):\n        b[i, j] = Normal(0, 1)",
        {"m": M},
    )
    assert model.lengths(model.program.variables["b"]) == (3, 2)


@pytest.mark.parametrize(
    ("loop", "read"),
    [
        ("range(3)", "t in 0..3"),
        ("range(1, 3)", "t in 1..3"),
        ("range(0, 3, 2)", "t in 0..3 by 2"),
        ("range(2, -1, -1)", "t in 2..-1 by -1"),
        ("range(len(y))", "t in 0..len(y)"),
        ("range(lo[0], lo[1] + 1)", "t in lo[0]..(lo[1] + 1)"),
    ],
)
def test_loops(loop: str, read: str) -> None:
    (site,) = sites(f"for t in {loop}:\n    observe(y[t], Normal(0.0, 1.0))", y=Y, lo=[0, 2])
    assert site.replace("(", "").replace(")", "").endswith(f"for {read}".replace("(", "").replace(")", ""))


def test_loops_of_one_line_are_one_loop() -> None:
    program = bound(
        "for t in range(3):\n    observe(y[t], Normal(0, 1))\n    observe(x[t], Normal(0, 1))", {"y": Y, "x": Y}
    ).program
    a, b = program.sites
    assert a.loops[0].number == b.loops[0].number
    (loop,) = program.body
    assert isinstance(loop, For)
    assert loop.body == (a, b)


def test_two_loops_with_the_same_index_are_two() -> None:
    program = bound(
        "for t in range(3):\n    observe(y[t], Normal(0, 1))\nfor t in range(3):\n    observe(x[t], Normal(0, 1))",
        {"y": Y, "x": Y},
    ).program
    a, b = program.sites
    assert a.loops[0].number != b.loops[0].number
    assert a.loops[0].index != b.loops[0].index
    assert str(b.loops[0]) == "t in 0..3"


def test_guards() -> None:
    program = bound(
        """for t in range(3):
    if n[t] == 0:
        observe(y[t], Normal(0.0, 1.0))
    elif n[t] == 1:
        observe(y[t], Normal(1.0, 1.0))
    else:
        observe(y[t], Normal(2.0, 1.0))""",
        {"y": Y, "n": N},
    ).program
    assert [[str(guard) for guard in site.guards] for site in program.sites] == [
        ["n[t] == 0"],
        ["not (n[t] == 0)", "n[t] == 1"],
        ["not (n[t] == 0)", "not (n[t] == 1)"],
    ]
    (loop,) = program.body
    assert isinstance(loop, For)
    assert isinstance(loop.body[0], If)


def test_branches_of_a_value_become_one_expression() -> None:
    found = sites(
        """if n > 1:
    centre = 1.0
    scale = 2.0
else:
    centre = 3.0
    scale = 2.0
x = Normal(centre, scale)""",
        n=2,
    )
    assert found == ["x ~ Normal((1.0 if (n > 1) else 3.0), 2.0)"]


def test_assignments_are_inlined() -> None:
    assert sites("a = Normal(0, 1)\nb = a * 2\nc = b + 1\nobserve(y, Normal(c, 1.0))", y=0.5)[1] == (
        "observe y ~ Normal((a * 2) + 1, 1.0)"
    )


def test_values_inside_a_loop() -> None:
    found = sites("a = Normal(0, 1)\nfor t in range(len(y)):\n    m = a * t\n    observe(y[t], Normal(m, 1.0))", y=Y)
    assert found[1] == "observe y[t] ~ Normal(a * t, 1.0) for t in 0..len(y)"


def test_a_cell_gets_a_name() -> None:
    found = sites(
        "a = Normal(0, 1).rows(3)\n"
        "for t in range(len(y)):\n    m = a[t]\n    v = x[t]\n    observe(y[t], Normal(m, v))",
        y=Y,
        x=Y,
    )
    assert found[1] == "observe y[t] ~ Normal(a[t], x[t]) for t in 0..len(y)"


def test_computed_cells_are_read_back_shifted() -> None:
    found = sites(
        """b = Normal(0, 1)
m = array(float, 3)
for i in range(3):
    m[i] = b * x[i]
for t in range(1, 3):
    observe(y[t], Normal(m[t - 1], 1.0))""",
        y=Y,
        x=Y,
    )
    assert found[1] == "observe y[t] ~ Normal(b * x[t - 1], 1.0) for t in 1..3"


def test_computed_cells_with_a_first_one() -> None:
    found = sites(
        """m = array(float, 3)
m[0] = 1.0
for i in range(1, 3):
    m[i] = x[i - 1]
for t in range(3):
    observe(y[t], Normal(m[t], 1.0))""",
        y=Y,
        x=Y,
    )
    assert "x[t - 1]" in found[0]
    assert "1.0" in found[0]


def test_every_distribution() -> None:
    vectors = {"p": "p", "alpha": "q", "covariance": "s"}
    for name, one in DISTRIBUTIONS.items():
        if name == "Normal":
            continue
        needed = [p.name for p in inspect.signature(one).parameters.values() if p.default is inspect.Parameter.empty]
        vector = {"Categorical", "Multinomial", "Dirichlet", "MultivariateNormal"}
        given = [vectors.get(one, "0.5") if name in vector else "0.5" for one in needed]
        if name == "MultivariateNormal":
            given[0] = "q"
        if name in ("Multinomial", "Binomial"):
            given[0] = "3"
        if name == "Uniform":
            given = ["0.5", "1.5"]
        inputs = {"p": [0.5, 0.5], "q": [1.0, 2.0], "s": np.eye(2)}
        used = {key: value for key, value in inputs.items() if key in given}
        program = bound(f"x = {name}({', '.join(given)})", used).program
        site = program.sites[0]
        assert site.distribution is ALL[name]
        assert len(site.args) == len(ALL[name].parameters)
        assert program.variables["x"].event == ALL[name].event
        assert (program.variables["x"].kind != "float") == ALL[name].discrete


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Normal(0.0, 2.0)", "Normal(0.0, 2.0)"),
        ("Normal(0.0, sd=2.0)", "Normal(0.0, 2.0)"),
        ("Normal(0.0, var=2.0)", "NormalVariance(0.0, 2.0)"),
        ("Normal(0.0, precision=2.0)", "NormalPrecision(0.0, 2.0)"),
        ("Normal(0.0, sqrt(v))", "NormalVariance(0.0, v)"),
        ("Normal(0.0, 1 / sqrt(v))", "NormalPrecision(0.0, v)"),
        ("Normal(0.0, var=1.0 / v)", "NormalPrecision(0.0, v)"),
        ("Normal(0.0, precision=1.0 / v)", "NormalVariance(0.0, v)"),
        ("TruncatedNormal(0.0, 1.0, 0.0)", "TruncatedNormal(0.0, 1.0, 0.0, inf)"),
        ("TruncatedNormal(0.0, 1.0, high=v)", "TruncatedNormal(0.0, 1.0, -inf, v)"),
        ("Categorical.uniform(3)", "Categorical([1.0 / 3 for k in 3])"),
        ("Dirichlet(0.5, 3)", "Dirichlet([0.5 for k in 3])"),
        ("infer.Normal(0.0, 1.0)", "Normal(0.0, 1.0)"),
    ],
)
def test_forms_of_a_distribution(written: str, read: str) -> None:
    assert sites(f"x = {written}", v=2.0) == [f"x ~ {read}"]


def test_rows() -> None:
    model = bound(
        "p = Dirichlet(0.5, 4).rows(3)\nm = Normal(c, 1.0).rows(3)\nq = Dirichlet(a).rows(2)",
        {"c": Y, "a": np.ones((2, 3))},
    )
    assert [line.partition(": ")[2] for line in model.program.text().splitlines()] == [
        "p[p_row] ~ Dirichlet([0.5 for k in 4]) for p_row in 0..3",
        "m[m_row] ~ Normal(c[m_row], 1.0) for m_row in 0..3",
        "q[q_row] ~ Dirichlet(a[q_row]) for q_row in 0..2",
    ]
    assert {name: model.lengths(model.program.variables[name]) for name in "pmq"} == {
        "p": (3, 4),
        "m": (3,),
        "q": (2, 3),
    }


def test_ordered() -> None:
    program = bound("m = Normal(0, 1).rows(3).ordered()").program
    assert program.sites[0].ordered
    assert program.variables["m"].ordered


def test_observed_rows() -> None:
    assert sites("observe(y, Normal(0.0, 1.0).rows(len(y)))", y=Y) == [
        "observe y[y_row] ~ Normal(0.0, 1.0) for y_row in 0..len(y)"
    ]


def test_observed_vectors() -> None:
    program = bound(
        "p = Dirichlet(1.0, 3)\nfor i in range(2):\n    observe(v[i], Multinomial(4, p))",
        {"v": np.array([[1, 2, 1], [4, 0, 0]])},
    ).program
    site = program.sites[1]
    assert isinstance(site.value, Vector)
    assert site.value.row() == Get("v", (Index("i"),))
    assert site.observed


def test_observed_expression() -> None:
    assert sites("m = Normal(0, 1)\nfor i in range(3):\n    observe(y[i] - x[i], Normal(m, 1.0))", y=Y, x=Y)[1] == (
        "observe y[i] - x[i] ~ Normal(m, 1.0) for i in 0..3"
    )


def test_factor() -> None:
    program = bound("x = Normal(0, 1)\nfactor(-x * x)").program
    site = program.sites[1]
    assert site.distribution is None
    assert site.observed
    assert str(site) == "3: factor(-x * x)"


def test_missing_cells_become_two_sites() -> None:
    program = bound(
        "for i in range(3):\n    observe(y[i], Normal(0.0, 1.0))", {"y": [1.0, np.nan, 2.0]}, missing="latent"
    ).program
    a, b = program.sites
    assert (a.observed, b.observed) == (True, False)
    assert str(a.guards[0]) == "y__missing[i] == 0"
    assert str(b.guards[0]) == "not (y__missing[i] == 0)"
    assert [one.name for one in program.latents] == ["y"]


def test_docstring_and_pass_are_passed_over() -> None:
    assert sites('"""What it is."""\npass\nx = Normal(0, 1)') == ["x ~ Normal(0, 1)"]


def test_sizes_of_variables() -> None:
    program = bound(
        "a = Normal(0, 1).rows(k)\nfor i in range(len(a)):\n    observe(y[i], Normal(a[i], 1.0))", {"k": 3, "y": Y}
    ).program
    assert program.sites[1].loops[0].high == Get("k")
    assert program.variables["y"].shape == (Size("y"),)
    assert program.sites[1].loops[0].low == Const(0)


def test_shapes_have_kinds_of_their_distribution() -> None:
    arrays = bound(
        "for i in range(3):\n    observe(n[i], Poisson(1.0))\n    observe(y[i], Normal(0.0, 1.0))",
        {"n": Shape(3), "y": Shape(3)},
    ).arrays
    assert arrays["n"].dtype == np.int64
    assert arrays["y"].dtype == np.float64


def test_lines_are_kept() -> None:
    program = bound("x = Normal(0, 1)\n\ny = Normal(x, 1)").program
    assert [site.line for site in program.sites] == [2, 4]
    assert program.lines[4] == "y = Normal(x, 1)"
    assert [one.line for one in program.latents] == [2, 4]
