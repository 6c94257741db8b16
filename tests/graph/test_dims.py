"""Sizes: the normal form means what Python's integers mean, prints and parses, and compiles."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsysopt.core.errors import UsageError
from mlsysopt.graph.errors import GraphTextError
from mlsysopt.graph.symbolic import Dim, Symbol, ceildiv, declared_range, dim, dims, maximum, minimum

NAMES = ("B", "H", "S", "T")
B, H, S, T = dims(*NAMES)

# A tree of plain Python values beside the Dim: the meaning is computed by another way than ours.
leaves = st.one_of(st.integers(-9, 9), st.sampled_from(NAMES))
trees = st.recursive(
    leaves,
    lambda inner: st.tuples(st.sampled_from(["+", "-", "*", "//", "%", "min", "max"]), inner, inner),
    max_leaves=9,
)
sizes = st.fixed_dictionaries({name: st.integers(-7, 20) for name in NAMES})


def meaning(tree, values):
    """Evaluate a tree with Python's own integers."""
    if not isinstance(tree, tuple):
        return values[tree] if isinstance(tree, str) else tree
    word, left, right = tree[0], meaning(tree[1], values), meaning(tree[2], values)
    return {
        "+": lambda: left + right,
        "-": lambda: left - right,
        "*": lambda: left * right,
        "//": lambda: left // right,
        "%": lambda: left % right,
        "min": lambda: min(left, right),
        "max": lambda: max(left, right),
    }[word]()


def built(tree):
    """Build the Dim of a tree."""
    if not isinstance(tree, tuple):
        return Dim.of(tree)
    word, left, right = tree[0], built(tree[1]), built(tree[2])
    if word in ("min", "max"):
        return (minimum if word == "min" else maximum)(left, right)
    return {"+": Dim.__add__, "-": Dim.__sub__, "*": Dim.__mul__, "//": Dim.__floordiv__, "%": Dim.__mod__}[word](
        left, right
    )


@settings(deadline=None, max_examples=600)
@given(tree=trees, values=sizes)
def test_normal_form_means_what_python_means(tree, values):
    try:
        expected = meaning(tree, values)
    except ZeroDivisionError:
        return  # a cancelled divisor may give a value where Python gives none
    size = built(tree)
    assert size.at(values) == expected
    assert size.compile(NAMES)(*(values[name] for name in NAMES)) == expected
    assert eval(size.source(NAMES), {"min": min, "max": max, **values}) == expected


@settings(deadline=None, max_examples=400)
@given(tree=trees)
def test_text_parses_back_to_an_equal_value(tree):
    try:
        size = built(tree)
    except UsageError as error:
        assert "divided by 0" in str(error)
        return
    again = Dim.parse(str(size))
    assert (again, hash(again), str(again)) == (size, hash(size), str(size))
    assert pickle.loads(pickle.dumps(size)) == size


@settings(deadline=None, max_examples=200)
@given(tree=trees, values=sizes)
def test_substitution_then_evaluation_is_evaluation(tree, values):
    try:
        meaning(tree, values)
        size = built(tree)
    except (ZeroDivisionError, UsageError):
        return
    half = {name: values[name] for name in NAMES[:2]}
    assert size.substitute(half).at(values) == size.at(values)
    assert not size.substitute(values).symbols


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (B * S, S * B),
        ((B + S) * (B - S), B * B - S * S),
        ((32 * S + 5) // 32, S),
        (S // 4 // 8, S // 32),
        ((H - 1) // 32 + 1, (H + 31) // 32),
        (ceildiv(H, 32), (H + 31) // 32),
        ((7 * S + 9) % 7, Dim.of(2)),
        ((S * 8 + B) % 8, B % 8),
        (S % 8 % 4, S % 4),
        (S % 4 // 4, Dim.of(0)),
        ((6 * S + 1) // 4, (3 * S) // 2),
        ((B * S * 768) // S, 768 * B),
        ((B * S + B * T) // (S + T), B),
        ((B * S) % S, Dim.of(0)),
        ((B * S) // (B * T), S // T),
        ((S // B) // 3, S // (3 * B)),
        (-(-S // 4), (S + 3) // 4),
        (S // 1, S),
        (S % 1, Dim.of(0)),
        (0 // S, Dim.of(0)),
        (S // -4, (-S) // 4),
        (minimum(S, T, S), minimum(T, S)),
        (minimum(S, minimum(T, 4), 9), minimum(4, S, T)),
        (maximum(S, S + 3), S + 3),
        (minimum(S, maximum(S, T)), S),
        (minimum(2 * S, 4 * T), 2 * minimum(S, 2 * T)),
        (S**3, S * S * S),
    ],
)
def test_equal_sizes_are_one_value(left, right):
    assert left == right
    assert hash(left) == hash(right)
    assert str(left) == str(right)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (B * S, "B*S"),
        ((H - 1) // 32 + 1, "floordiv(H - 1, 32) + 1"),
        (2 * S - 3, "2*S - 3"),
        (3 - S, "-S + 3"),
        (Dim.of(0), "0"),
        (Dim.of(-4), "-4"),
        (-B * S * S, "-B*S*S"),
        (maximum(T, S * B) % 3, "mod(max(B*S, T), 3)"),
    ],
)
def test_text_is_in_a_fixed_order(size, text):
    assert str(size) == text


@pytest.mark.parametrize(
    ("text", "column", "expected"),
    [
        ("S +", 4, "a number, a symbol or ("),
        ("", 1, "a number"),
        ("S $ 2", 3, "an operator or the end"),
        ("(S + 1", 7, "an operator or )"),
        ("2 S", 3, "an operator or the end"),
        ("S // 0", 6, "a divisor other than 0"),
        ("mod(S, 0)", 8, "a divisor other than 0"),
        ("floordiv(S)", 1, "two operands"),
        ("sin(S)", 1, "one of ceildiv, floordiv, max, min, mod"),
        ("lambda", 1, "no word of the language"),
        ("min", 1, "no word of the language"),
        ("S**99", 4, "a power from 0 to 16"),
        ("(" * 500 + "S" + ")" * 500, 101, "at most 100 levels"),
    ],
)
def test_damaged_text_is_refused_with_its_column(text, column, expected):
    with pytest.raises(GraphTextError) as error:
        Dim.parse(text)
    assert f"column {column}: " in str(error.value)
    assert expected in str(error.value)


def test_zero_and_one_are_sizes():
    zero, one = Dim.of(0), Dim.of(1)
    assert (zero.constant, one.constant, zero * S, one * S, zero + S) == (0, 1, zero, S, S)
    assert (zero == 0, one == 1, hash(zero), hash(one), bool(zero), bool(one)) == (True, True, 0, hash(1), False, True)
    assert (int(one), range(3)[one], zero.is_constant, zero.symbols) == (1, 1, True, frozenset())
    assert S != 1 and S != "S"


def test_a_symbolic_size_is_no_number_and_no_truth():
    with pytest.raises(TypeError, match=r"\.at\("):
        int(S)
    with pytest.raises(TypeError, match="Facts"):
        bool(S * 2)
    with pytest.raises(TypeError):
        _ = S < T
    with pytest.raises(TypeError):
        _ = S + "T"
    with pytest.raises(TypeError):
        _ = S + True


def test_missing_values_and_zero_divisors_are_named():
    with pytest.raises(UsageError, match=r"B\*S needs a value for S"):
        (B * S).at(B=1)
    with pytest.raises(UsageError, match="divides by zero at S=3, T=3"):
        (B // (S - T)).substitute({"B": 7}).at(S=3, T=3)
    with pytest.raises(UsageError, match=r"S must be an integer, got 1\.5"):
        (S + 1).at(S=1.5)
    with pytest.raises(UsageError, match="cannot be divided by 0"):
        _ = S // 0
    with pytest.raises(UsageError, match="no name was given for T"):
        (S + T).compile(["S"])
    with pytest.raises(UsageError, match="given twice"):
        S.compile(["S", "S"])


@pytest.mark.parametrize("name", ["", "1S", "a-b", "a.b", "lambda", "min", "floordiv", "é", "S T"])
def test_names_that_no_symbol_may_have(name):
    with pytest.raises(UsageError, match="symbol"):
        Dim.of(name)


@pytest.mark.parametrize("value", [1.0, None, True, [1]])
def test_what_is_no_size_is_refused(value):
    with pytest.raises(UsageError, match="allowed are"):
        Dim.of(value)


def test_values_are_exact_integers():
    big = (B * S * T).at(B=np.int32(2**30), S=np.int64(2**40), T=2**50)
    assert big == 2**120
    assert np.int64(3) * S == S * 3
    assert np.int64(7) // (S * 0 + 2) == 3


def test_declarations_ride_on_symbols_only():
    x = dim("X", low=0, high=64, divisor=8, likely={32: 0.5})
    assert isinstance(x, Symbol)
    assert (x, hash(x), declared_range(x)) == (Dim.of("X"), hash(Dim.of("X")), (0, 64))
    assert (x.divisor, x.likely, pickle.loads(pickle.dumps(x)).likely) == (8, ((32, 0.5),), ((32, 0.5),))
    assert declared_range(x + 0) == (0, 64)
    assert declared_range(Dim.of("X")) == (1, None)
    assert not any(isinstance(operand, Symbol) for atom in (x // 4).atoms for operand in atom.operands)
    with pytest.raises(UsageError, match="is no symbol"):
        declared_range(x * S)
    assert [declared_range(size) for size in dims("P", "Q", min=(2, 3), max=(None, 5))] == [(2, None), (3, 5)]
    p, q = dims("P", "Q", max=64, likely={"P": [32, 8], "Q": {16: 0.5}})
    assert (p.likely, q.likely) == (((8, 1.0), (32, 1.0)), ((16, 0.5),))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dims("P", "Q", max=(1, 2, 3)), "max needs one value or 2, got 3"),
        (lambda: dim("P", low=4, high=3), "4..3"),
        (lambda: dim("P", divisor=0), "a divisor is >= 1"),
        (lambda: dim("P", high=9, divisor=2, likely={3: 0.5}), r"likely size 3 .* allowed 1..9 step 2"),
        (lambda: dim("P", high=9, likely={3: 0}), "weights > 0"),
        (lambda: dims("P", "Q", max=9, likely={"P": [10]}), "likely size 10 .* allowed 1..9"),
        (lambda: dims("PP", "Q", likely={"P": [1]}), "likely sizes of 'P'; did you mean PP"),
    ],
)
def test_declarations_that_contradict_themselves(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_pickled_hashes_hold_in_another_process():
    size = maximum((H - 1) // 32, B % 7)
    code = (
        "import pickle, sys; from mlsysopt.graph.symbolic import Dim; d = pickle.load(sys.stdin.buffer);"
        "assert d in {Dim.parse(str(d))} and hash(d) == hash(Dim.parse(str(d))); print(d)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(size), capture_output=True, check=True)
    assert done.stdout.decode().strip() == str(size)
