"""What is not in the language is refused in one line: file and line, what was given, what to write instead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlsysopt.core.errors import UsageError
from mlsysopt.infer.binding import bind
from mlsysopt.infer.frontend.source import ModelError, read
from mlsysopt.infer.language import Normal, observe
from tests.infer.frontend.bodies import refused
from tests.infer.written import written

Y = [0.5, 1.5, 2.5]
DATA: dict[str, Any] = {"y": Y, "n": [1, 2, 0], "m": np.ones((3, 2)), "k": 2, "v": 0.5}


@pytest.mark.parametrize(
    ("body", "line", "words"),
    [
        # Statements.
        ("x = Normal(0, 1)\nwhile x > 0:\n    pass", 2, ("while", "use `for`")),
        ("x = Normal(0, 1)\nx = Normal(0, 2)", 2, ("x is assigned twice", "line 2", "name of its own")),
        ("a = 1.0\na = 2.0\nx = Normal(a, 1)", 2, ("a is assigned twice", "line 2")),
        ("a = 1.0\na += 1.0\nx = Normal(a, 1)", 2, ("a += 1.0", "reduce")),
        ("a, b = 1, 2\nx = Normal(a, b)", 1, ("one name is assigned at a time",)),
        ("a = b = 1\nx = Normal(a, b)", 1, ("one name is assigned at a time",)),
        ("x = Normal(0, 1)\nreturn x", 2, ("returns nothing", "fit")),
        ("import math\nx = Normal(0, 1)", 1, ("imports stand above",)),
        ("try:\n    x = Normal(0, 1)\nfinally:\n    pass", 1, ("no try statement",)),
        ("x = Normal(0, 1)\nprint(x)", 2, ("no statement print(x)",)),
        ("Normal(0, 1)", 1, ("a draw without a name", "assign it")),
        ("for i in y:\n    observe(y[i], Normal(0, 1))", 1, ("for i in range", "for i in y")),
        ("for i, j in range(3):\n    observe(y[i], Normal(0, 1))", 1, ("for i in range",)),
        ("for i in range(0, 3, k):\n    observe(y[i], Normal(0, 1))", 1, ("step", "plain whole number")),
        ("for i in range(0, 3, 0):\n    observe(y[i], Normal(0, 1))", 1, ("step",)),
        ("for i in range():\n    observe(y[i], Normal(0, 1))", 1, ("one to three",)),
        ("for y in range(3):\n    observe(v, Normal(0, 1))", 1, ("y has a meaning already",)),
        ("for i in range(3):\n    i = 2\n    observe(y[i], Normal(0, 1))", 2, ("i is a loop's index",)),
        ("k = 3\nx = Normal(k, 1)", 1, ("k is an input", "observe(k")),
        ("y[0] = Normal(0, 1)", 1, ("y is an input",)),
        ("a = y\nx = Normal(a[0], 1)", 1, ("second name of y",)),
        (
            "a = Normal(0, 1)\nfor i in range(3):\n    b = Normal(a, 1)\n    observe(y[i], Normal(b, 1))",
            3,
            ("drawn anew in a loop", "array"),
        ),
        ("if k > 1:\n    b = Normal(0, 1)\nobserve(v, Normal(0, 1))", 2, ("drawn anew in a branch",)),
        (
            "if k > 1:\n    a = 1.0\nobserve(v, Normal(a, 1))",
            3,
            ("a is assigned in one branch only (line 2)", "every branch"),
        ),
        ("for i in range(3):\n    a = y[i]\nobserve(v, Normal(a, 1))", 3, ("a is used before it is assigned",)),
        ("pass", 0, ("draws and observes nothing",)),
        # Arrays.
        ("b[0] = Normal(0, 1)", 1, ("b is not declared", "b = array(float, n)")),
        ("b = array(float, 3)\nx = Normal(0, 1)", 1, ("b is declared and none of its cells is assigned",)),
        ("b = array(float, 3)\nx = Normal(b[0], 1)", 2, ("b is used before any of its cells",)),
        ("b = array(text, 3)\nb[0] = Normal(0, 1)", 1, ("int, float or bool",)),
        ("b = array(float)\nb[0] = Normal(0, 1)", 1, ("one or two dimensions",)),
        ("b = array(float, 1, 2, 3)\nb[0] = Normal(0, 1)", 1, ("one or two dimensions",)),
        ("b = array(float, like=k)\nb[0] = Normal(0, 1)", 1, ("like= takes an input array",)),
        ("for i in range(3):\n    b = array(float, 3)\n    b[i] = Normal(0, 1)", 2, ("declared inside a loop",)),
        ("b = array(float, 3)\nb[:] = Normal(0, 1)", 2, ("a slice cannot be assigned", "in a loop")),
        (
            "b = array(float, 3)\nfor i in range(3):\n    b[0] = Normal(0, 1)",
            3,
            ("b[0] is assigned once for every i", "line 3"),
        ),
        (
            "b = array(float, 2)\nb[0] = Normal(0, 1)\nb[0] = Normal(1, 1)",
            3,
            ("b[0] is assigned twice (first at line 3)",),
        ),
        (
            "b = array(float, 3)\n"
            "for i in range(3):\n"
            "    b[i] = Normal(0, 1)\n"
            "for j in range(3):\n"
            "    b[j] = Normal(0, 1)",
            5,
            ("assigned twice (first at line 4)",),
        ),
        ("b = array(float, 3)\nb[0] = 1.0\nb[0] = 2.0\nx = Normal(b[0], 1)", 3, ("b[0] is assigned twice",)),
        ("b = array(float, 2)\nb[0] = Normal(0, 1)\nb[1] = 2.0", 3, ("drawn cells", "computed ones")),
        ("b = array(float, 2)\nb[1] = 2.0\nb[0] = Normal(0, 1)", 3, ("computed cells", "drawn ones")),
        ("b = array(float, 2)\nb[0, 1] = Normal(0, 1)", 2, ("Normal draws a number",)),
        ("b = array(float, 2)\nb[0] = Dirichlet(1.0, 2)", 2, ("Dirichlet draws a row",)),
        ("b = array(float, 2)\nb[0] = Poisson(1.0)", 2, ("declared float", "array(int")),
        ("b = array(int, 2)\nb[0] = Normal(0, 1)", 2, ("declared int", "array(float")),
        ("b = array(float, 2)\nb[0] = Normal(0, 1).rows(2)", 2, (".rows()",)),
        ("b = array(float, 2)\nb[-1] = Normal(0, 1)", 2, ("index -1 is negative", "len(...) - 1")),
        ("x = Normal(y[-1], 1)", 1, ("index -1 is negative",)),
        ("x = Normal(y[0.5], 1)", 1, ("0.5 is a float and cannot be an index",)),
        ("x = Normal(y[0, 1], 1)", 1, ("y has 1 dimension, got 2 indices",)),
        ("x = Normal(m[0], 1)", 1, ("m[0] is a row",)),
        ("x = Normal(y, 1)", 1, ("y is an array", "index it")),
        ("x = Normal(k[0], 1)", 1, ("k is not an array",)),
        ("x = Normal(y[0:2], 1)", 1, ("a slice of y", "reduce")),
        # What depends on a latent.
        (
            "c = Poisson(2.0)\nfor i in range(c):\n    observe(y[i], Normal(0, 1))",
            2,
            ("a loop's bound depends on c", "line 2"),
        ),
        ("c = Poisson(2.0)\nb = array(float, c)\nb[0] = Normal(0, 1)", 2, ("the size of b depends on c", "line 2")),
        ("c = Poisson(2.0)\nb = Normal(0, 1).rows(c)", 2, ("the size of b depends on c",)),
        ("c = Bernoulli(0.5)\nb = array(float, 2)\nb[c] = Normal(0, 1)", 3, ("the index of b depends on c",)),
        (
            "c = Bernoulli(0.5)\nb = array(float, 2)\nif c == 1:\n    b[0] = Normal(0, 1)",
            4,
            ("whether b is drawn depends on c", "a if c else b"),
        ),
        ("x = Normal(0, 1)\nobserve(x, Normal(0, 1))", 2, ("x is not given", "drawn at line 2")),
        ("x = Normal(0, 1)\nobserve(v - x, Normal(0, 1))", 2, ("x is drawn at line 2", "only inputs")),
        # Expressions.
        ("x = Normal(sum([i for i in y]), 1)", 1, ("no function sum",)),
        ("x = Normal([1, 2], 1)", 1, ("no list", "input array")),
        ("x = Normal(max([i for i in y], 1), 1)", 1, ("no comprehension", "loop")),
        ("x = Normal((lambda: 1)(), 1)", 1, ("no call",)),
        ("x = Normal(sin(v), 1)", 1, ("no function sin",)),
        ("x = Normal(sqr(v), 1)", 1, ("no function sqr", "did you mean sqrt")),
        ("x = Normal(zz, 1)", 1, ("zz is used before it is assigned",)),
        ("x = Normal(zz[0], 1)", 1, ("zz is used before it is assigned",)),
        ("x = Normal('a', 1)", 1, ("`'a'`",)),
        ("x = Normal(f'{v}', 1)", 1, ("no text",)),
        ("x = Normal(1 if v is None else 2, 1)", 1, ("compares with",)),
        ("x = Normal(v @ v, 1)", 1, ("`v @ v`",)),
        ("x = Normal(~k, 1)", 1, ("`~k`",)),
        ("x = Normal(int(v), 1)", 1, ("int() of a float",)),
        ("x = Normal(len(v), 1)", 1, ("len() needs an array",)),
        ("x = Normal(len(y, y), 1)", 1, ("len() got 2 arguments",)),
        ("x = Normal(exp(v, v), 1)", 1, ("exp() got 2 arguments",)),
        ("x = Normal(dot(v, y), 1)", 1, ("dot() needs two rows",)),
        ("x = Normal(reduce(sub, y), 1)", 1, ("reduce() folds by add", "sub")),
        ("x = Normal(reduce(add, y[0:3:2]), 1)", 1, ("without a step",)),
        ("x = Normal(reduce(add, v), 1)", 1, ("reduce() needs a row",)),
        ("x = Normal(y.shape[1], 1)", 1, ("y has 1 dimension", "shape[1]")),
        ("x = Normal(y.shape[k], 1)", 1, ("plain number",)),
        ("x = Normal(0, 1) + 1", 1, ("stands in an expression", "give it a name first")),
        ("x = Normal(Normal(0, 1), 1)", 1, ("stands in an expression",)),
        ("x = Normal(observe(v, 1), 1)", 1, ("statement of its own",)),
        # Distributions.
        ("x = Normal(0)", 1, ("exactly one of sd", "got none")),
        ("x = Normal(0, 1, var=2)", 1, ("exactly one of sd", "sd and var")),
        ("x = Gamma(1)", 1, ("Gamma", "rate", "it takes (shape, rate)")),
        ("x = Gamma(1, scale=2)", 1, ("rate", "it takes (shape, rate)")),
        ("x = Normel(0, 1)", 1, ("no function Normel", "did you mean Normal")),
        ("x = Categorical(v)", 1, ("p has to be a row or a 1-D array",)),
        ("x = Categorical(m)", 1, ("p has to be a row or a 1-D array",)),
        ("x = MultivariateNormal(y, y)", 1, ("covariance has to be a 2-D array",)),
        ("x = Normal(0, 1).ordered()", 1, ("ordered() orders copies", ".rows(n).ordered()")),
        ("x = Poisson(1.0).rows(3).ordered()", 1, (".ordered() needs numbers", "whole numbers")),
        ("x = Dirichlet(1.0, 2).rows(3).ordered()", 1, (".ordered() needs numbers", "vectors")),
        ("x = Normal(0, 1).rows(2).rows(3)", 1, (".rows(n) takes one number, once",)),
        ("x = Normal(0, 1).rows()", 1, (".rows(n) takes one number",)),
        ("observe(v, 3)", 1, ("observe() needs a distribution, got 3",)),
        ("observe(v)", 1, ("takes two arguments",)),
        ("observe(v, Normal(0, 1).rows(3))", 1, ("observe() of rows needs an array",)),
        ("observe(y, Normal(0, 1).rows(3).ordered())", 1, ("leave .ordered() out",)),
        ("observe(m[0], Normal(0, 1))", 1, ("Normal is over a number",)),
        ("observe(v, Dirichlet(1.0, 2))", 1, ("Dirichlet is over a row",)),
        ("factor()", 1, ("takes one number",)),
        (
            "for i in range(3):\n    observe(y[i], Normal(0, 1))\nfor i in range(3):\n    observe(y[i], Normal(1, 1))",
            4,
            ("y[i] is observed twice (first at line 3)",),
        ),
    ],
)
def test_refused(body: str, line: int, words: tuple[str, ...]) -> None:
    names = {name: value for name, value in DATA.items() if name in body}
    refused(body, line, *words, **names)


def test_missing_rows_cannot_be_drawn() -> None:
    body = "p = Dirichlet(1.0, 2)\nfor i in range(2):\n    observe(m[i], Dirichlet(p))"
    with pytest.raises(ModelError, match=r":4: missing cells of m cannot be drawn: Dirichlet is over whole rows"):
        bind(read(*written(body, "m")), {"m": [[0.5, np.nan], [0.5, 0.5]]}, missing="latent")


def test_no_source() -> None:
    function, _ = written("x = Normal(0, 1)")
    with pytest.raises(UsageError) as error:
        read(function)
    assert "put the model in a file, or pass `source=`" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_lambda() -> None:
    with pytest.raises(
        ModelError, match=r"test_errors.py:\d+: a lambda cannot be a model; write it as `def` in a file"
    ):
        read(lambda y: observe(y, Normal(0, 1)))


def test_a_syntax_error_has_its_line() -> None:
    function, _ = written("x = Normal(0, 1)")
    with pytest.raises(ModelError, match=r"^<source of one>:3: "):
        read(function, "def one():\n    x = Normal(0, 1)\n    y = = 2\n")


def test_a_source_of_something_else() -> None:
    function, _ = written("x = Normal(0, 1)")
    with pytest.raises(ModelError, match="there is no `def one` here"):
        read(function, "def other():\n    pass\n")


def test_the_line_is_the_files() -> None:
    def body(y):
        observe(y, Nowhere(0, 1))  # noqa: F821

    first = body.__code__.co_firstlineno
    with pytest.raises(ModelError, match=rf"^test_errors.py:{first + 1}: "):
        bind(read(body), {"y": 1.0})
