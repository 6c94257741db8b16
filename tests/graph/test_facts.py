"""Facts: answers are never wrong, most equalities are decided, reasons are the fewest, text comes back."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import cache, partial

import numpy as np
import pytest

from mlsysopt.core.errors import UsageError
from mlsysopt.graph.errors import FactsError, GraphTextError
from mlsysopt.graph.facts import Answer, Facts, Origin, divides, eq, facts_text, le, parse_facts
from mlsysopt.graph.symbolic import Dim, ceildiv, dim, maximum, minimum

NAMES = ("B", "H", "S", "T")
B, H, S, T = map(Dim.of, NAMES)
YES, NO, UNKNOWN = Answer.YES, Answer.NO, Answer.UNKNOWN
SEED = 20240611


# A tree is an integer, a name, or (operator, left, right). Brute force evaluates trees with numpy on all
# assignments of twelve sizes in a row to four symbols; nothing of ours takes part in it.

SIDE = 12


@cache
def grid(first):
    """Return the values of each symbol on every assignment of first .. first + 11."""
    axes = np.meshgrid(*[np.arange(first, first + SIDE)] * len(NAMES), indexing="ij")
    return dict(zip(NAMES, (axis.ravel() for axis in axes), strict=True))


def on_grid(tree, first):
    """Return values and where they are defined, on every assignment."""
    if not isinstance(tree, tuple):
        values = grid(first)[tree] if isinstance(tree, str) else np.full(SIDE ** len(NAMES), tree)
        return values, np.ones(SIDE ** len(NAMES), bool)
    (a, fine_a), (b, fine_b) = on_grid(tree[1], first), on_grid(tree[2], first)
    fine = fine_a & fine_b
    if tree[0] in ("//", "%"):
        fine = fine & (b != 0)
        b = np.where(b == 0, 1, b)
    return OPERATORS[tree[0]](a, b), fine


OPERATORS = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "//": np.floor_divide,
    "%": np.mod,
    "min": np.minimum,
    "max": np.maximum,
}


def built(tree):
    """Build the Dim of a tree."""
    if not isinstance(tree, tuple):
        return Dim.of(tree)
    a, b = built(tree[1]), built(tree[2])
    if tree[0] in ("min", "max"):
        return (minimum if tree[0] == "min" else maximum)(a, b)
    return {"+": Dim.__add__, "-": Dim.__sub__, "*": Dim.__mul__, "//": Dim.__floordiv__, "%": Dim.__mod__}[tree[0]](
        a, b
    )


def some_tree(rng, depth):
    if depth == 0 or rng.random() < 0.15:
        return rng.choice(NAMES) if rng.random() < 0.8 else rng.randint(1, 6)
    operator = rng.choices(["+", "-", "*", "//", "%", "min", "max"], [5, 3, 5, 4, 3, 2, 2])[0]
    left = some_tree(rng, depth - 1)
    if operator in ("//", "%"):
        right = rng.choice([2, 3, 4, 5, 6, 8]) if rng.random() < 0.75 else rng.choice(NAMES)
        return operator, left, right
    return operator, left, some_tree(rng, depth - 1)


EQUALITIES = {
    "equal": lambda a, b, c, d, k, r: [
        (a, b),
        (a, ("*", 2, b)),
        (a, ("+", b, r)),
        (("+", a, b), ("+", c, d)),
        (("*", 2, a), ("*", 3, b)),
    ],
    "product": lambda a, b, c, d, k, r: [
        (("*", a, b), ("*", c, d)),
        (("*", a, b), c),
        (("*", a, b), 12),
        (("*", a, ("*", b, c)), ("*", 2, d)),
    ],
    "quotient": lambda a, b, c, d, k, r: [
        (a, ("//", b, k)),
        (a, ("+", ("//", ("-", b, 1), k), 1)),
        (("//", a, k), ("//", b, k)),
    ],
    "remainder": lambda a, b, c, d, k, r: [(("%", a, k), r % k), (("%", a, k), ("%", b, k))],
}


@dataclass
class World:
    """Random facts, with the assignments that meet them and what may be put for what."""

    first: int
    facts: Facts = field(default_factory=Facts)
    consistent: np.ndarray = field(default_factory=lambda: np.ones(SIDE ** len(NAMES), bool))
    swaps: list = field(default_factory=list)
    divisors: dict = field(default_factory=dict)
    orders: list = field(default_factory=list)

    def add(self, holds, say):
        """Add a fact if an assignment meets it with the others: then Facts must take it."""
        remaining = self.consistent & holds
        if not remaining.any():
            return False
        self.facts, self.consistent = say(self.facts), remaining
        return True

    def relate(self, compare, word, left, right, origin):
        """Add `left word right`, where it is defined; say whether it was added."""
        (x, fine_x), (y, fine_y) = on_grid(left, self.first), on_grid(right, self.first)
        say = {"=": Facts.with_equal, "<=": Facts.with_le}[word]
        return self.add(compare(x, y) & fine_x & fine_y, lambda facts: say(facts, built(left), built(right), origin))


def some_world(rng, first=1):
    world = World(first)
    for name in NAMES:
        ends = sorted(rng.sample(range(first, first + SIDE), 2)) if rng.random() < 0.4 else (first, first + SIDE - 1)
        values = grid(first)[name]
        world.add(
            (values >= ends[0]) & (values <= ends[1]), partial(Facts.with_range, symbol=name, low=ends[0], high=ends[1])
        )
    for number in range(rng.choice([0, 1, 1, 2, 2, 3, 4])):
        origin = Origin("op", f"net.py:{number}")
        kind = rng.choice(["equal", "equal", "product", "divisor", "le", "quotient", "remainder"])
        a, b, c, d = rng.sample(NAMES, 4)
        k, r = rng.choice([2, 3, 4]), rng.randint(1, 3)
        if kind == "divisor":
            if world.add(grid(first)[a] % k == 0, partial(Facts.with_divisor, size=a, k=k, origin=origin)):
                world.divisors[a] = k
        elif kind == "le":
            orders = [(a, b), (("+", a, b), c), (("*", a, b), ("*", 2, c)), (("*", 2, a), b), (("//", a, 2), b)]
            left, right = rng.choice(orders)
            if world.relate(np.less_equal, "<=", left, right, origin):
                world.orders.append((left, right))
        else:
            left, right = rng.choice(EQUALITIES[kind](a, b, c, d, k, r))
            if world.relate(np.equal, "=", left, right, origin):
                world.swaps += [(left, right), (right, left)]
    return world


def rewritten(tree, world, rng):
    """Return a tree of the same value, by a random identity or fact at a random place."""
    if isinstance(tree, tuple) and rng.random() < 0.6:
        side = rng.choice([1, 2]) if tree[0] not in ("//", "%") else 1
        inner = rewritten(tree[side], world, rng)
        return (tree[0], inner, tree[2]) if side == 1 else (tree[0], tree[1], inner)
    swaps = [new for old, new in world.swaps if old == tree]
    if swaps and rng.random() < 0.8:
        return rng.choice(swaps)
    k = rng.choice([2, 3, 4])
    name = rng.choice(NAMES)
    ways = [("//", ("*", k, tree), k), ("-", ("+", tree, name), name)]
    ways.append(("+", ("*", k, ("//", tree, k)), ("%", tree, k)))
    ways.append(("+", ("//", tree, 2), ("//", ("+", tree, 1), 2)))
    if isinstance(tree, str) and tree in world.divisors:
        m = world.divisors[tree]
        ways += [("*", m, ("//", tree, m)), ("-", tree, ("%", tree, m))] * 3
    for low, high in world.orders:
        ways += [("min", low, high)] * 6 if tree == low else [("max", low, high)] * 6 if tree == high else []
    if isinstance(tree, tuple):
        word, a, b = tree
        if word in ("+", "*", "min", "max"):
            ways.append((word, b, a))
        if word == "*" and isinstance(a, tuple) and a[0] in (("+", "-", "min", "max") if b in NAMES else ("+", "-")):
            # Sums distribute always, min and max over a symbol when that is positive.
            ways += [(a[0], ("*", a[1], b), ("*", a[2], b))] * 3
        if word in ("min", "max"):
            other = "max" if word == "min" else "min"
            ways += [("-", ("+", a, b), (other, a, b)), ("-", 0, (other, ("-", 0, a), ("-", 0, b)))] * 2
            ways.append(("+", (word, ("-", a, 1), ("-", b, 1)), 1))
        if word == "//" and isinstance(b, int):
            ways += [("-", 0, ("//", ("-", b - 1, a), b)), ("//", ("-", a, ("%", a, b)), b)] * 2
            ways += [("//", ("//", a, b // 2), 2)] if b in (4, 6, 8) else []
            ways.append(("-", ("//", ("+", a, ("*", b, name)), b), name))
        if word == "%" and isinstance(b, int):
            ways += [("-", a, ("*", b, ("//", a, b))), ("%", ("+", a, ("*", b, rng.choice(NAMES))), b)] * 2
            ways.append(("%", ("%", a, 2 * b), b))
    return rng.choice(ways)


def some_question(rng, world):
    kind = rng.choices(["eq", "le", "lt", "divides"], [60, 18, 10, 12])[0]
    left = some_tree(rng, rng.choice([1, 2, 2, 3]))
    if kind == "divides":
        k = rng.choice([2, 3, 4, 6])
        shape = rng.random()
        if shape < 0.4:
            left = ("*", rng.choice(NAMES), left)
        elif shape < 0.7:
            left = ("-", left, ("%", left, k))
        return kind, left, k
    way = rng.random()
    right = left
    if way < 0.65:
        for _ in range(rng.choice([1, 2, 3])):
            right = rewritten(right, world, rng)
        if kind in ("le", "lt"):
            right = ("+", right, rng.choice([0, 1, rng.choice(NAMES)]))
    elif way < 0.75:
        right = ("+", rewritten(left, world, rng), rng.choice([1, -1, 2]))
    elif way < 0.9 and world.swaps:
        left, right = rng.choice(world.swaps)
        left, right = rewritten(left, world, rng), rewritten(right, world, rng)
    else:
        right = some_tree(rng, 2)
    return kind, left, right


def truth(world, kind, left, right):
    """Return whether it holds for all, and for none, of the consistent assignments where it is defined."""
    (x, fine_x), (y, fine_y) = on_grid(left, world.first), on_grid(right, world.first)
    where = world.consistent & fine_x & fine_y
    with np.errstate(all="ignore"):
        holds = {"eq": x == y, "le": x <= y, "lt": x < y, "divides": x % np.where(y == 0, 1, y) == 0}[kind][where]
    return bool(holds.all()), not holds.any()


def examined(seed, questions, first=1):
    """Return the wrong answers to so many random questions, and what was counted."""
    rng = random.Random(seed)
    wrong, counts = [], Counter()
    while counts["asked"] < questions:
        world = some_world(rng, first)
        facts = world.facts
        for _ in range(4):
            kind, left, right = some_question(rng, world)
            try:
                a, b = built(left), built(right)
            except UsageError:
                continue  # a division by the number zero
            counts["asked"] += 1
            always, never = truth(world, kind, left, right)
            ask = {"eq": facts.eq, "le": facts.le, "lt": facts.lt, "divides": facts.divisible}[kind]
            answer = ask(a, int(b) if kind == "divides" else b)
            if (answer is YES and not always) or (answer is NO and not never):
                wrong.append((str(facts), kind, str(a), str(b), answer))
            counts[f"{kind} {answer.value} of {'true' if always else 'false' if never else 'open'}"] += 1
            if kind == "eq" and always:
                plain = "plain" if a == b else "proof"
                counts[f"{plain} decided"] += answer is YES
                counts[f"{plain} all"] += 1
    return wrong, counts


@pytest.mark.slow
def test_two_thousand_questions_against_brute_force():
    wrong, counts = examined(SEED, 2000)
    assert not wrong, f"{len(wrong)} wrong answers, first {wrong[0]}; {dict(counts)}"
    share = (counts["plain decided"] + counts["proof decided"]) / (counts["plain all"] + counts["proof all"])
    hard = counts["proof decided"] / counts["proof all"]
    told = f"decided {share:.1%} of true equalities, {hard:.1%} of those that the normal form leaves; {dict(counts)}"
    assert counts["proof all"] >= 300, told
    assert share >= 0.7 and hard >= 0.7, told


@pytest.mark.parametrize("first", [-4, 0])
def test_no_wrong_answer_where_sizes_may_be_zero_or_negative(first):
    wrong, counts = examined(SEED + first, 300, first)
    assert not wrong, f"{len(wrong)} wrong answers, first {wrong[0]}; {dict(counts)}"
    assert sum(count for name, count in counts.items() if " yes of " in name) >= 50, counts


@pytest.mark.parametrize(
    ("facts", "left", "right"),
    [
        (Facts().with_equal(S, T), 2 * S, S + T),
        (Facts().with_equal(S, T).with_equal(T, H), S * B, B * H),
        (Facts().with_equal(2 * S, 3 * T), 4 * S - 6 * T, Dim.of(0)),
        (Facts().with_divisor("S", 8), S // 8 * 8, S),
        (Facts().with_divisor("S", 8), S % 4, Dim.of(0)),
        (Facts().with_equal(S % 8, 3), (S - 3) // 8 * 8, S - 3),
        (Facts().with_range("B", 1).with_equal(B * S, B * T), S, T),
        (Facts().with_equal(B * S, H * T), B * S * 64, 64 * H * T),
        (Facts().with_le(S, T).with_le(T, S), S, T),
        (Facts().with_le(S, T), minimum(S, T), S),
        (Facts().with_range("S", 1, 32), ceildiv(S, 32), Dim.of(1)),
        (Facts().with_range("S", 1, 7), S % 8, S),
        (Facts(), minimum(S, T) + maximum(S, T), S + T),
        (Facts(), S // 2 + (S + 1) // 2, S),
        (Facts(), (S * (S + 1)) % 2, Dim.of(0)),
        (Facts(), S - S % 8, S // 8 * 8),
        (Facts().with_range("S", 0).with_range("T", 1).with_le(S + 1, T), S % T, S),
    ],
)
def test_what_follows_is_yes(facts, left, right):
    assert facts.eq(left, right) is YES
    assert facts.eq(right + 1, left) is NO
    assert facts.le(left, right) is YES
    assert facts.lt(left, right) is NO


def test_what_does_not_follow_is_unknown():
    facts = Facts().with_range("S", 1, 512).with_range("B", 1, 64)
    assert facts.eq(S, 1) is UNKNOWN
    assert facts.eq(S, B) is UNKNOWN
    assert facts.le(B, S) is UNKNOWN
    assert facts.divisible(S, 2) is UNKNOWN
    assert Facts().le(0, S) is UNKNOWN
    assert not facts.why(eq(S, B))
    assert str(facts.why(eq(S, B))) == "S = B: unknown; the facts do not decide it"


def test_a_division_by_what_is_known_to_be_zero_has_no_answer():
    facts = Facts().with_equal(S, T, "split")
    undefined = B // (S - T)
    assert facts.eq(undefined, 3) is UNKNOWN and facts.le(undefined // 2, 3) is UNKNOWN
    assert facts.range(undefined) == (None, None)
    with pytest.raises(FactsError, match=r"S = T \(split\) but"):
        facts.with_equal(undefined, 3, "cat")
    with pytest.raises(FactsError, match=r"\(cat\) but S = T \(split\)"):
        Facts().with_equal(undefined, H, "cat").with_equal(S, T, "split")


def test_an_answer_is_no_truth_value():
    for answer in Answer:
        with pytest.raises(TypeError, match=r"is Answer\.YES"):
            bool(answer)


def test_zero_and_one_are_excluded_only_by_a_range():
    assert Facts().with_range("S", 0, 9).eq(S * T, 0) is UNKNOWN
    assert Facts().with_range("S", 2, 9).eq(S, 1) is NO
    assert Facts().with_range("S", 1, 9).with_range("T", 1).eq(S * T, 0) is NO
    assert Facts().with_range("B", 0).with_equal(B * S, B * T).eq(S, T) is UNKNOWN
    assert Facts().with_range("B", 0, 1).with_divisor("B", 2).eq(B, 0) is YES


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Facts().with_equal(S, 12, Origin("x")).with_equal(S, 10, Origin("mask")),
            "S = 12 (x) but S = 10 (mask)",
        ),
        (
            lambda: (
                Facts()
                .with_range("S", 1, 8, "user")
                .with_range("B", 1, 4)
                .with_range("S", 9, None, Origin("pad", "a.py:3"))
            ),
            "S in 1..8 (user) but S in 9.. (pad at a.py:3)",
        ),
        (
            lambda: Facts().with_equal(S, T, "add").with_le(B, 9).with_equal(T, H, "mul").with_equal(H, S + 1, "cat"),
            "S = T (add) and T = H (mul) but H = S + 1 (cat)",
        ),
        (
            lambda: Facts().with_divisor("S", 8, "split").with_equal(S, 12, "x"),
            "S is a multiple of 8 (split) but S = 12 (x)",
        ),
        (lambda: Facts().with_equal(2 * S, 2 * T + 1, "concat"), "2*S = 2*T + 1 (concat) can never hold"),
        (lambda: Facts().with_le(S + 1, T, "a").with_le(T, S, "b"), "S + 1 <= T (a) but T <= S (b)"),
    ],
)
def test_a_contradiction_names_both_origins(make, message):
    with pytest.raises(FactsError) as error:
        make()
    assert str(error.value) == message


def test_why_returns_the_fewest_facts():
    facts = Facts().with_range("S", 1, 64, "user").with_equal(S, T, Origin("add", "bert.py:214"))
    facts = facts.with_range("B", 1, 4).with_equal(T, H, Origin("matmul", "bert.py:99")).with_divisor("B", 2)
    why = facts.why(eq(S, H))
    assert why.answer is YES
    assert list(map(str, why)) == ["add at bert.py:214", "matmul at bert.py:99"]
    assert str(why) == "S = H: yes, because S = T (add at bert.py:214) and T = H (matmul at bert.py:99)"
    assert [str(origin) for origin in facts.why(le(T, 64))] == ["user", "add at bert.py:214"]
    assert str(facts.why(eq(S * B, B * S))).endswith("arithmetic alone")
    assert facts.ask(divides(2, B * 7)) is YES


def test_ranges_go_through_operations_and_equalities():
    facts = Facts().with_range("S", 1, 100).with_range("B", 2, 4).with_equal(T, S - 1)
    assert facts.range(S * B) == (2, 400)
    assert facts.range(T) == (0, 99)
    assert facts.range((S - 1) // 32 + 1) == (1, 4)
    assert facts.range(S % 8) == (0, 7)
    assert facts.range(minimum(S, 7) - maximum(B, 3)) == (-3, 4)
    assert facts.range(S - S // 2 * 2) == (0, 1)
    assert facts.range(Dim.of("U")) == (None, None)
    assert facts.range(B - B + 3) == (3, 3)


def test_representatives():
    facts = Facts().with_equal(T, S).with_equal(S, H).with_equal(Dim.of("K"), B * T)
    assert facts.normalise(T * S) == H * H
    assert facts.normalise("K") == B * H
    assert facts.normalise(T - S) == 0


def test_declarations_become_facts():
    facts = Facts().with_declared(dim("S", high=512, divisor=8, likely={128: 0.5}))
    assert list(facts.declared()) == [("S", (1, 512), 8, {128: 0.5})]
    assert facts.symbols == ("S",)
    assert facts_text(facts) == "S in 1..512 step 8 likely {128: 0.5}"
    assert Facts().with_declared(S) == Facts()


def test_content_does_not_depend_on_order_or_wording():
    one = Facts().with_equal(S, T, "a").with_equal(T, H, "b").with_range("S", 1, 9).with_range("S", 0, 7)
    two = Facts().with_range("S", 1, 7).with_equal(H, S, "c").with_equal(T + 1, H + 1, "d")
    assert one == two
    assert hash(one) == hash(two)
    assert one != two.with_le(B, S)
    assert Facts() == Facts() and Facts() != one


def test_adding_leaves_the_old_value_alone():
    before = Facts().with_range("S", 1, 9)
    after = before.with_equal(S, T)
    assert before.eq(S, T) is UNKNOWN and after.eq(S, T) is YES
    assert after.with_equal(T, S) is after
    assert after.with_range("S", 0, 10) is after


def test_values_at_run_time_are_checked():
    facts = (
        Facts().with_range("S", 1, 512, "user").with_equal(S, T, Origin("add", "m.py:7")).with_divisor("B", 4, "user")
    )
    assert facts.check({"S": 8, "T": 8, "B": 4}) == []
    assert facts.check({"S": 600, "T": 8}) == [
        "S = 600 but S in 1..512 (user)",
        "S = 600 but T = 8: S = T (add at m.py:7)",
    ]
    assert facts.check({"B": 6}) == ["B = 6 but B is a multiple of 4 (user)"]


def test_rename_and_merge():
    facts = Facts().with_range("S", 1, 9).with_equal(S, T).with_likely("S", {4: 1.0})
    swapped = facts.rename({"S": "T", "T": "S"})
    assert swapped.likely("T") == {4: 1.0}
    assert swapped.rename({"S": "T", "T": "S"}) == facts
    assert Facts().with_le(B, T).merge(facts).eq(S, T) is YES
    with pytest.raises(UsageError, match="would make two symbols one"):
        facts.rename({"S": "T"})
    with pytest.raises(FactsError, match="but"):
        facts.merge(Facts().with_range("T", 10, 12, "other"))


def test_text_comes_back_to_the_same_facts():
    rng = random.Random(SEED + 1)
    for _ in range(150):
        facts = some_world(rng).facts
        if rng.random() < 0.5:
            facts = facts.with_likely("S", {3: 0.25, 5: 1e-3})
        text = facts_text(facts)
        again = parse_facts(text)
        assert facts_text(again) == text
        assert again == facts and hash(again) == hash(facts)
        assert pickle.loads(pickle.dumps(facts)) == facts


@pytest.mark.parametrize(
    ("text", "column", "expected"),
    [
        ("S in 1..9,", 11, "a number, a symbol or ("),
        ("S in 1..9 T", 11, "a comma or the end"),
        ("S", 2, "in, =, <= or >="),
        ("S = ", 5, "a number"),
        ("S in 1..9 step 0", 16, "a step >= 1"),
        ("S in 1..9 likely {4: x}", 19, "size: weight"),
        ("S in 1..9 likely {4: 0.0}", 19, "weights above 0"),
    ],
)
def test_damaged_text_is_refused_with_its_column(text, column, expected):
    with pytest.raises(GraphTextError) as error:
        parse_facts(text)
    assert f"column {column}: " in str(error.value) and expected in str(error.value)


def test_what_cannot_be_said_is_refused():
    with pytest.raises(UsageError, match="no symbol"):
        Facts().with_range(S * T, 1, 2)
    with pytest.raises(UsageError, match="a divisor is >= 1"):
        Facts().with_divisor(S, 0)
    with pytest.raises(UsageError, match="weights are above 0"):
        Facts().with_likely("S", {3: 0})


def test_answers_do_not_depend_on_how_names_are_hashed() -> None:
    code = (
        "from mlsysopt.graph import Dim, Facts, maximum, minimum\n"
        "S, T, U = map(Dim.of, 'STU')\n"
        "f = Facts().with_le(S, T).with_le(T, U)\n"
        "print(Facts().eq(maximum(S, T) + minimum(S, T), S + T), f.le(S, U), f.eq(minimum(S, U), S))"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": str(seed)}
        ).stdout
        for seed in range(4)
    }
    assert answers == {"Answer.YES Answer.YES Answer.YES\n"}
