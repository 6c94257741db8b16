"""Expressions: nothing is evaluated as Python, arithmetic is right, explanations have the numbers."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsysopt.core.errors import ExpressionError, QuantityError, UsageError
from mlsysopt.core.space import Expression


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "__import__('os').system('true') == 0",
        "open('/etc/passwd')",
        "a.__class__",
        "().__class__.__bases__",
        "f(a)",
        "eval('1')",
        "a[0]",
        "a[:]",
        "lambda: 1",
        "(lambda: 1)()",
        "[x for x in a]",
        "{x for x in a}",
        "{x: 1 for x in a}",
        "(x for x in a)",
        "a if b else c",
        "(a := 3) > 2",
        "f'{a}' == 'x'",
        "a in (1, 2)",
        "a is b",
        "~a",
        "a @ b",
        "a >> 2",
        "a | b",
        "None",
        "...",
        "b'x' == a",
        "3j < a",
        "1e999 < a",
        "9**9**9",
        "9**999999999",
        "a**b**c",
        "a**(b+1)",
        "10" * 300 + " < a",
        "max(a)",
        "max()",
        "max(*a)",
        "max(a, b, key=c)",
        "abs(a, b)",
        "max",
        "min.__self__",
        "a; b",
        "import os",
        "a = 3",
        "yield a",
        "await a",
        "()",
        "{1}",
        "[]",
        "a <=",
        "(a",
        "",
        "   ",
        "'\\x41' == a",
        "a\x00 < b",
        "a # comment",
        "\uff41 <= 3",
        "-" * 1900 + "a",
        "(" * 300 + "a" + ")" * 300,
        "+".join("a" * 900) + " < 3",
        "a" * 2001,
    ],
)
def test_refuses_everything_but_arithmetic(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        expression = Expression.parse(text)
        # A name and nothing else may be parsed; it must not be the function.
        assert expression.names == {"max"}
        expression.holds({})
    assert str(caught.value).count("\n") < 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a <= 256MiB + b.c", ["attribute access", "position 14"]),
        ("a <= 2KiB and f(b)", ["call of 'f'", "position 14"]),
        ("a <= ", ["position 4"]),
        ("a <= 5 6", ["position"]),
        ("a ** 65 < 2", ["up to 64", "position 5"]),
    ],
)
def test_position_is_that_of_the_written_text(text: str, words: list[str]) -> None:
    with pytest.raises(ExpressionError) as caught:
        Expression.parse(text)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_unknown_unit_is_named() -> None:
    with pytest.raises(QuantityError, match="256MiB"):
        Expression.parse("a <= 256Mib")


# The same grammar, evaluated by Python itself on whole numbers, is the truth.
_atoms = st.sampled_from(["a", "b", "c", "1", "2", "7", "-3"])


def _grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pair = st.tuples(inner, st.sampled_from(["+", "-", "*"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
    call = st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(lambda t: f"{t[0]}({t[1]}, {t[2]})")
    return st.one_of(pair, call, inner.map(lambda t: f"abs({t})"), inner.map(lambda t: f"(-{t})"))


_numbers = st.recursive(_atoms, _grow, max_leaves=6)
_comparisons = st.tuples(
    _numbers,
    st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
    _numbers,
    st.sampled_from(["<", "<=", "=="]),
    _numbers,
).map(lambda t: f"{t[0]} {t[1]} {t[2]} {t[3]} {t[4]}")
_conditions = st.recursive(
    _comparisons,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        inner.map(lambda t: f"not ({t})"),
    ),
    max_leaves=3,
)


@given(_conditions, st.lists(st.tuples(*[st.integers(-9, 9)] * 3), min_size=1, max_size=8))
def test_agrees_with_python_one_by_one_and_in_columns(text: str, rows: list[tuple[int, int, int]]) -> None:
    expression = Expression.parse(text)
    configs = [dict(zip("abc", row, strict=True)) for row in rows]
    truth = [eval(text, {"min": min, "max": max, "abs": abs, "__builtins__": {}}, config) for config in configs]
    assert [expression.holds(config) for config in configs] == truth
    columns = {name: np.array([config[name] for config in configs]) for name in "abc"}
    found = np.broadcast_to(expression.evaluate(columns), len(rows))
    assert found.tolist() == truth
    assert pickle.loads(pickle.dumps(expression)) == expression


@pytest.mark.parametrize(
    ("text", "config", "holds"),
    [
        ("a // 3 == 2 and a % 3 == 1", {"a": 7}, True),
        ("a / b <= 2.5", {"a": 5, "b": 2}, True),
        ("a / b <= 2", {"a": 5, "b": 0}, False),
        ("0 / b == 0", {"b": 0}, False),
        ("2 ** n <= 1KiB", {"n": 10}, True),
        ("2 ** n <= 1KiB", {"n": 5000}, False),
        ("codec == 'lz4' or level < 3", {"codec": "zstd", "level": 2}, True),
        ("codec != 'lz4'", {"codec": "lz4"}, False),
        ("codec == 3", {"codec": "3"}, False),
        ("on and not off", {"on": True, "off": False}, True),
        ("1 < a < 5 < b", {"a": 3, "b": 6}, True),
        ("1 < a < 5 < b", {"a": 3, "b": 5}, False),
    ],
)
def test_truth_by_hand(text: str, config: dict[str, object], holds: bool) -> None:
    assert Expression.parse(text).holds(config) is holds


@pytest.mark.parametrize(
    ("text", "config", "explained"),
    [
        ("a * b + c <= 256MiB", {"a": 2**20, "b": 299, "c": 2**20}, "a * b + c = 300 MiB, allowed <= 256 MiB"),
        ("1 <= a <= max(2, b)", {"a": 5, "b": 3}, "a = 5, allowed <= max(2, b) = 3"),
        ("64KiB >= a", {"a": 65537}, "a = 65537, allowed <= 65536"),
        ("a > 0 and (a + b) * 2 <= 1KiB", {"a": 1000, "b": 24}, "(a + b) * 2 = 2 KiB, allowed <= 1 KiB"),
        ("wait * 2 <= 1min", {"wait": 45}, "wait * 2 = 1 min 30 s, allowed <= 1 min"),
        ("codec != 'x'", {"codec": "x"}, "codec = 'x', allowed != 'x'"),
        ("a or b > 3", {"a": 0, "b": 1}, "a or b > 3 is false with a = 0, b = 1"),
    ],
)
def test_explains_with_numbers(text: str, config: dict[str, object], explained: str) -> None:
    expression = Expression.parse(text)
    assert not expression.holds(config)
    assert expression.explain(config) == explained


def test_missing_value_is_named() -> None:
    with pytest.raises(ExpressionError, match="needs a value for b"):
        Expression.parse("a <= b").holds({"a": 1})


def test_substitute_keeps_meaning() -> None:
    expression = Expression.parse("max(a, max) * b <= 1KiB")
    changed = expression.substitute({"b": -2, "max": 7})
    assert changed.names == {"a"}
    for a in (-600, -3, 600):
        assert changed.holds({"a": a}) == expression.holds({"a": a, "b": -2, "max": 7})
