"""What is known about the symbols of a program, with reasons; questions are answered yes, no or unknown.

A `Facts` never changes: what adds a fact returns a new one, and refuses a fact that cannot hold together
with those it has, naming the origin of each. "Yes" holds for every assignment that meets the facts, "no"
for none of them, and neither is ever guessed.

References:
    K. Zhu et al., *DISC: A Dynamic Shape Compiler for Machine Learning Workloads*, EuroMLSys 2021: shape constraints.
    U. Junker, *QuickXplain: Preferred Explanations and Relaxations*, AAAI 2004: smallest sets of reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NoReturn

from mlsysopt.core.errors import UsageError
from mlsysopt.graph.bounds import interval
from mlsysopt.graph.canonical import Content, canonical
from mlsysopt.graph.closure import Closure, Contradiction, Undefined
from mlsysopt.graph.errors import FactsError
from mlsysopt.graph.proofs import Claim, decide, lower_bound
from mlsysopt.graph.statements import Divides, Equal, Fact, NotAbove, Origin, Range
from mlsysopt.graph.symbolic import Dim, Symbol

__all__ = [
    "Answer",
    "Fact",
    "Facts",
    "FactsError",
    "Origin",
    "Question",
    "Why",
    "divides",
    "eq",
    "facts_text",
    "le",
    "parse_facts",
]


class Answer(Enum):
    """Yes: for every consistent assignment. No: for none. Unknown: neither was proven."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"

    def __bool__(self) -> NoReturn:
        raise TypeError("an answer may be unknown: compare it, as in `facts.eq(a, b) is Answer.YES`")


@dataclass(frozen=True, slots=True)
class Question:
    """Something to ask facts; made by `eq`, `le` and `divides`."""

    word: str
    left: Dim
    right: Dim

    def __str__(self) -> str:
        return f"{self.left} {self.word} {self.right}"


def eq(left: Dim | int, right: Dim | int) -> Question:
    """Ask whether two sizes are equal."""
    return Question("=", Dim.of(left), Dim.of(right))


def le(left: Dim | int, right: Dim | int) -> Question:
    """Ask whether a size is never above another."""
    return Question("<=", Dim.of(left), Dim.of(right))


def divides(divisor: int, size: Dim | int) -> Question:
    """Ask whether a size is a multiple of a number."""
    return Question("divides", Dim.of(divisor), Dim.of(size))


@dataclass(frozen=True, slots=True)
class Why:
    """An answer with the fewest facts that give it; iterates over their origins.

    Attributes:
        question: What was asked.
        answer: The answer.
        facts: Facts that suffice, none of which can be left out; empty when arithmetic alone decides.
    """

    question: Question
    answer: Answer
    facts: tuple[Fact, ...]

    @property
    def origins(self) -> list[Origin]:
        return [fact.origin for fact in self.facts]

    def __iter__(self) -> Iterator[Origin]:
        return iter(self.origins)

    def __len__(self) -> int:
        return len(self.facts)

    def __str__(self) -> str:
        head = f"{self.question}: {self.answer.value}"
        if self.answer is Answer.UNKNOWN:
            return f"{head}; the facts do not decide it"
        return head + ("; arithmetic alone" if not self.facts else ", because " + _listed(self.facts))


class Facts:
    """Facts about symbols.

    >>> S, T = Dim.of("S"), Dim.of("T")
    >>> facts = Facts().with_range("S", 1, 512).with_equal(S, T, Origin("add", "bert.py:214"))
    >>> facts.eq(2 * T, S + T), facts.le(T, 512), facts.eq(S, 7)
    (<Answer.YES: 'yes'>, <Answer.YES: 'yes'>, <Answer.UNKNOWN: 'unknown'>)
    >>> print(facts.why(eq(S, T)))
    S = T: yes, because S = T (add at bert.py:214)
    """

    __slots__ = ("_answers", "_closure", "_content", "_facts", "_likely")

    def __init__(self) -> None:
        self._facts: tuple[Fact, ...] = ()
        self._likely: dict[str, tuple[tuple[int, float], ...]] = {}
        self._closure = Closure()
        self._content: Content | None = None
        self._answers: dict[tuple[str, Dim, Dim], Answer] = {}

    # saying

    def with_range(
        self, symbol: str | Dim, low: int | None = 1, high: int | None = None, origin: Origin | str = "user"
    ) -> Facts:
        """Return these facts and: a symbol lies between two numbers, None for no limit.

        Raises:
            FactsError: it cannot.
        """
        name = _name(symbol)
        for fact in self._facts:
            if isinstance(fact, Range) and fact.symbol == name and _within((fact.low, fact.high), (low, high)):
                return self
        if low is None and high is None:
            return self
        return self.including(Range(name, low, high, Origin.of(origin)))

    def with_divisor(self, size: str | Dim, k: int, origin: Origin | str = "user") -> Facts:
        """Return these facts and: a size is a multiple of k.

        Raises:
            FactsError: it cannot be.
        """
        if k < 1:
            raise UsageError(f"a divisor is >= 1, got {k} for {size}")
        if self.divisible(Dim.of(size), k) is Answer.YES:
            return self
        return self.including(Divides(Dim.of(size), k, Origin.of(origin)))

    def with_equal(self, left: Dim | int, right: Dim | int, origin: Origin | str = "user") -> Facts:
        """Return these facts and: two sizes are equal.

        Raises:
            FactsError: they cannot be.
        """
        a, b = Dim.of(left), Dim.of(right)
        if a == b or self._is_known(a - b):
            return self
        return self.including(Equal(a, b, Origin.of(origin)))

    def with_le(self, left: Dim | int, right: Dim | int, origin: Origin | str = "user") -> Facts:
        """Return these facts and: a size is never above another.

        Raises:
            FactsError: it always is.
        """
        a, b = Dim.of(left), Dim.of(right)
        if self.le(a, b) is Answer.YES:
            return self
        return self.including(NotAbove(a, b, Origin.of(origin)))

    def with_likely(self, symbol: str | Dim, weights: Mapping[int, float]) -> Facts:
        """Return these facts with sizes worth being fast at, size -> weight; they take the place of earlier ones."""
        name = _name(symbol)
        if any(not weight > 0 for weight in weights.values()):
            raise UsageError(f"likely sizes of {name}: weights are above 0, got {dict(weights)}")
        found = self._copy()
        found._likely[name] = tuple(sorted(weights.items()))
        return found

    def with_declared(self, symbol: Dim, origin: Origin | str = "user") -> Facts:
        """Return these facts with all that was declared about a symbol by `dim` or `dims`."""
        if not isinstance(symbol, Symbol):
            return self
        found = self.with_range(symbol, symbol.low, symbol.high, origin)
        if symbol.divisor > 1:
            found = found.with_divisor(symbol, symbol.divisor, origin)
        return found.with_likely(symbol, dict(symbol.likely)) if symbol.likely else found

    # asking

    def eq(self, left: Dim | int, right: Dim | int) -> Answer:
        """Return whether two sizes are equal."""
        a, b = Dim.of(left), Dim.of(right)
        if a == b:
            return Answer.YES
        return self._answer("=", a, b)

    def le(self, left: Dim | int, right: Dim | int) -> Answer:
        """Return whether a size is never above another."""
        return self._answer("<=", Dim.of(left), Dim.of(right))

    def lt(self, left: Dim | int, right: Dim | int) -> Answer:
        """Return whether a size is always below another."""
        return self._answer("<=", Dim.of(left) + 1, Dim.of(right))

    def divisible(self, size: Dim | int, k: int) -> Answer:
        """Return whether a size is a multiple of k."""
        return self._answer("divides", Dim.of(k), Dim.of(size))

    def ask(self, question: Question) -> Answer:
        """Return the answer to a question."""
        return self._answer(question.word, question.left, question.right)

    def why(self, question: Question) -> Why:
        """Return the answer with the fewest facts that give it."""
        answer = self.ask(question)
        if answer is Answer.UNKNOWN:
            return Why(question, answer, ())

        def suffices(facts: Sequence[Fact]) -> bool:
            try:
                return _decided(_closure_of(facts), question.word, question.left, question.right) is answer
            except Contradiction:
                return False

        return Why(question, answer, _fewest(self._facts, suffices))

    def range(self, size: Dim | int) -> tuple[int | None, int | None]:
        """Return the smallest and largest value that a size can be shown to have, None where there is no limit."""
        given = Dim.of(size)
        try:
            d = self._closure.normal(given)
        except Undefined:
            return None, None
        low, high = lower_bound(self._closure, d), -lower_bound(self._closure, -d)
        plain = {name: self._closure.interval(self._closure.normal(Dim.of(name))) for name in given.symbols}
        direct = interval(given, plain)
        low, high = max(low, direct[0]), min(high, direct[1])
        return low if isinstance(low, int) else None, high if isinstance(high, int) else None

    def normalise(self, size: Dim | int) -> Dim:
        """Return a size in representatives: of equal symbols, the first by name; solved symbols by their formula."""
        return Dim.of(size).substitute(self._known().solved)

    # reading

    @property
    def symbols(self) -> tuple[str, ...]:
        """Names that something is known about, sorted."""
        return tuple(sorted({name for fact in self._facts for name in fact.symbols} | self._likely.keys()))

    def declared(self) -> Iterator[tuple[str, tuple[int | None, int | None], int, dict[int, float]]]:
        """Yield name, declared range, declared divisor and likely sizes of each symbol, sorted by name."""
        known = self._known()
        for name in self.symbols:
            yield name, known.ranges.get(name, (None, None)), known.divisors.get(name, 1), self.likely(name)

    def likely(self, symbol: str | Dim) -> dict[int, float]:
        """Return the likely sizes of a symbol with their weights."""
        return dict(self._likely.get(_name(symbol), ()))

    def divisor(self, symbol: str | Dim) -> int:
        """Return the declared divisor of a symbol, 1 when there is none."""
        return self._known().divisors.get(_name(symbol), 1)

    def __iter__(self) -> Iterator[Fact]:
        return iter(self._facts)

    def __len__(self) -> int:
        return len(self._facts)

    def check(self, values: Mapping[str, int]) -> list[str]:
        """Return a line for every fact that sizes break; facts about symbols without a value are left out."""
        broken = (fact.broken(values) for fact in self._facts if fact.symbols <= values.keys())
        return [line for line in broken if line]

    def rename(self, mapping: Mapping[str, str]) -> Facts:
        """Return the same facts about symbols of other names.

        Raises:
            UsageError: two symbols would get one name.
        """
        names = [mapping.get(name, name) for name in self.symbols]
        if len(set(names)) != len(names):
            raise UsageError(f"renaming {', '.join(self.symbols)} to {', '.join(names)} would make two symbols one")
        found = Facts()
        for fact in self._facts:
            found = found.including(fact.renamed(mapping))
        found._likely = {mapping.get(name, name): weights for name, weights in self._likely.items()}
        return found

    def merge(self, other: Facts) -> Facts:
        """Return the facts of both.

        Raises:
            FactsError: they cannot hold together.
        """
        found = self
        for fact in other._facts:
            found = found.with_fact(fact)
        for name, weights in other._likely.items():
            found = found.with_likely(name, dict(weights))
        return found

    def with_fact(self, fact: Fact) -> Facts:
        """Return these facts and one taken from another `Facts`."""
        if isinstance(fact, Range):
            return self.with_range(fact.symbol, fact.low, fact.high, fact.origin)
        if isinstance(fact, Divides):
            return self.with_divisor(fact.size, fact.k, fact.origin)
        if isinstance(fact, Equal):
            return self.with_equal(fact.left, fact.right, fact.origin)
        return self.with_le(fact.left, fact.right, fact.origin)

    def including(self, fact: Fact) -> Facts:
        """Return these facts and one more, kept even when it follows from the others.

        Raises:
            FactsError: it cannot hold together with them.
        """
        found = self._copy()
        found._facts = (*self._facts, fact)
        try:
            found._closure = fact.added(self._closure)
            impossible = self._refutes(fact)
        except Contradiction:
            impossible = True
        if impossible:
            raise FactsError(_conflict(found._facts))
        return found

    @property
    def content(self) -> Content:
        """What is said, in one form for all ways to say it; origins are no part of it."""
        return self._known()

    def clause(self) -> str:
        """Return the text form, as `facts_text` does."""
        return facts_text(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Facts):
            return NotImplemented
        return self is other or (self._likely == other._likely and self._known() == other._known())

    def __hash__(self) -> int:
        return hash((self._known(), tuple(sorted(self._likely.items()))))

    def __str__(self) -> str:
        return facts_text(self)

    def __repr__(self) -> str:
        return f"<Facts {facts_text(self) or 'none'}>"

    def __reduce__(self) -> tuple[Callable[..., Facts], tuple[object, ...]]:
        return _restored, (self._facts, self._likely)

    def _known(self) -> Content:
        if self._content is None:
            self._content = canonical(self._facts)
        return self._content

    def _copy(self) -> Facts:
        found = Facts()
        found._facts, found._likely, found._closure = self._facts, dict(self._likely), self._closure
        return found

    def _is_known(self, difference: Dim) -> bool:
        try:
            return self._closure.normal(difference) == 0
        except Undefined:
            return False

    def _refutes(self, fact: Fact) -> bool:
        question = fact.question()
        return question is not None and _decided(self._closure, *question) is Answer.NO

    def _answer(self, word: str, left: Dim, right: Dim) -> Answer:
        key = (word, left, right)
        found = self._answers.get(key)
        if found is None:
            found = self._answers[key] = _decided(self._closure, word, left, right)
        return found


def facts_text(facts: Facts) -> str:
    """Return facts as the text that `parse_facts` reads back, "" when there are none.

    >>> S = Dim.of("S")
    >>> f = Facts().with_range("S", 1, 512).with_divisor("S", 8).with_likely("S", {128: 0.5})
    >>> facts_text(f.with_equal(S * 3, Dim.of("N")))
    'N = 3*S, S in 1..512 step 8 likely {128: 0.5}'
    """
    from mlsysopt.graph.facts_text import text_of_facts

    return text_of_facts(facts)


def parse_facts(text: str, origin: Origin | str = "text") -> Facts:
    """Read what `facts_text` wrote.

    Raises:
        GraphTextError: column and what was expected.
        FactsError: the text contradicts itself.
    """
    from mlsysopt.graph.facts_text import read_facts

    return read_facts(text, Origin.of(origin))


def _decided(closure: Closure, word: str, left: Dim, right: Dim) -> Answer:
    if word == "divides":
        if left.constant is None or left.constant < 1:
            raise UsageError(f"a divisor is a number >= 1, got {left} for {right}")
        found = decide(closure, right % left, Claim.ZERO)
    else:
        found = decide(closure, right - left, Claim.ZERO if word == "=" else Claim.NONNEGATIVE)
    return Answer.UNKNOWN if found is None else Answer.YES if found else Answer.NO


def _closure_of(facts: Iterable[Fact]) -> Closure:
    closure = Closure()
    for fact in facts:
        closure = fact.added(closure)
    return closure


def _conflict(facts: Sequence[Fact]) -> str:
    *before, last = facts

    def clashes(some: Sequence[Fact]) -> bool:
        try:
            closure = _closure_of(some)
            fact = last.question()
            if fact is not None and _decided(closure, *fact) is Answer.NO:
                return True
            last.added(closure)
        except Contradiction:
            return True
        return False

    reasons = _fewest(before, clashes)
    if not reasons:
        return f"{last.said()} can never hold"
    return f"{_listed(reasons)} but {last.said()}"


def _listed(facts: Sequence[Fact], most: int = 6) -> str:
    shown = " and ".join(fact.said() for fact in facts[:most])
    return shown if len(facts) <= most else f"{shown} and {len(facts) - most} more"


def _fewest(facts: Sequence[Fact], suffices: Callable[[Sequence[Fact]], bool]) -> tuple[Fact, ...]:
    """Return facts, in their order, that suffice and none of which can be left out."""

    def needed(base: list[Fact], fresh: bool, rest: list[Fact]) -> list[Fact]:
        if fresh and suffices(base):
            return []
        if len(rest) == 1:
            return rest
        first, second = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        right = needed(base + first, True, second)
        left = needed(base + right, bool(right), first)
        return left + right

    if suffices([]):
        return ()
    kept = needed([], False, list(facts)) if facts else []
    return tuple(fact for fact in facts if fact in kept)


def _restored(facts: tuple[Fact, ...], likely: dict[str, tuple[tuple[int, float], ...]]) -> Facts:
    found = Facts()
    for fact in facts:
        found = found.including(fact)
    found._likely.update(likely)  # pyright: ignore[reportPrivateUsage]
    return found


def _name(symbol: str | Dim) -> str:
    size = Dim.of(symbol)
    names = [m[0] for m, c in size.terms if len(m) == 1 and c == 1]
    if len(size.terms) != 1 or not names or not isinstance(names[0], str):
        raise UsageError(f"{size} is no symbol: ranges and likely sizes are said of symbols")
    return names[0]


def _within(inner: tuple[int | None, int | None], outer: tuple[int | None, int | None]) -> bool:
    low = outer[0] is None or (inner[0] is not None and inner[0] >= outer[0])
    return low and (outer[1] is None or (inner[1] is not None and inner[1] <= outer[1]))
