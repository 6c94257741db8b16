"""Reading the text form of a program; every refusal names file, line, column and what was expected."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import NoReturn, TypeVar

from mlsysopt.core.errors import MlsysoptError, UsageError, near_misses
from mlsysopt.graph.builder import check_operands
from mlsysopt.graph.dim_text import DimReader
from mlsysopt.graph.errors import GraphTextError, TypeRuleError
from mlsysopt.graph.facts import Facts, parse_facts
from mlsysopt.graph.ir import NOWHERE, Attr, Constant, Graph, Loc, Op, Value
from mlsysopt.graph.ops.registry import OpDef, lookup
from mlsysopt.graph.placement import Axis, Mesh, Partial, Placement, Replicate, Shard
from mlsysopt.graph.sources import Absent, Source
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import DENSE, DTYPES, Blocked, Dense, DType, Layout, Opaque, Quant, TensorType, dtype

__all__ = ["parse", "parse_type"]

T = TypeVar("T")

_SPACE = re.compile(r"(?:\s+|//[^\n]*)*")
_WORD = re.compile(r"[A-Za-z_][\w.\-]*")
_NAME = re.compile(r"%([A-Za-z_][\w.\-]*)")
_NUMBER = re.compile(r"-?(?:inf|nan|\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)(?![A-Za-z_])")
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_KEY = re.compile(r"[\w.=:+@/\-]+")
_SIMPLE_SIZE = re.compile(r"(?:[A-Za-z_]\w*|\d+)(?=\s*[,\]>}])")
_COMMENT = re.compile(r"[ \t]*//[ \t]*([^\n]*)")
_PLACE = re.compile(r"(?:(\S+?):(\d+)(?:\s+(\S+))?|(\S+))\s*")
_REST = re.compile(r"[^\n]*?(?=[ \t]*(?://|\n|$))")


def parse(text: str, *, file: str = "text") -> Graph:
    """Read a program.

    Weights that the text speaks of are absent: the program can be shown, checked and rewritten,
    and `load` says so when their bytes are needed. `files.load` reads them as well.

    Args:
        text: What `str(graph)` printed, or a person wrote.
        file: Name for messages.

    Raises:
        GraphTextError: `file:line:column: expected ..., found ...`.

    >>> print(parse("graph @f(%x: f32[B]) { %y = add(%x, %x) : f32[B] return %y }").signature)
    @f(%x: f32[B]) -> (%y: f32[B])
    """
    reader = _Reader(text, file)
    graph = reader.graph()
    reader.skip()
    if reader.at < len(text):
        reader.fail("the end of the text")
    return graph


def parse_type(text: str) -> TensorType:
    """Read one type.

    >>> str(parse_type("f32[B, 2*S + 1, 8]"))
    'f32[B, 2*S + 1, 8]'
    """
    reader = _Reader(text, "type")
    found = reader.type()
    reader.skip()
    if reader.at < len(text):
        reader.fail("the end of the type")
    return found


class _Reader:
    """A position in the text; each method reads one thing and moves it."""

    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file
        self.at = 0
        self._types: dict[str, tuple[TensorType, ...]] = {}
        self._sizes: dict[str, Dim] = {}

    # --- characters ------------------------------------------------------------------------------

    def skip(self) -> None:
        found = _SPACE.match(self.text, self.at)
        if found:
            self.at = found.end()

    def fail(self, expected: str, at: int | None = None) -> NoReturn:
        at = self.at if at is None else at
        line = self.text.count("\n", 0, at) + 1
        column = at - (self.text.rfind("\n", 0, at) + 1) + 1
        found = self.text[at : at + 24].split("\n")[0]
        shown = (
            repr(found) if found.strip() else "the end of the line" if at < len(self.text) else "the end of the text"
        )
        raise GraphTextError(f"{self.file}:{line}:{column}: expected {expected}, found {shown}")

    def refuse(self, message: str, at: int) -> NoReturn:
        line = self.text.count("\n", 0, at) + 1
        column = at - (self.text.rfind("\n", 0, at) + 1) + 1
        raise GraphTextError(f"{self.file}:{line}:{column}: {message}")

    def sees(self, mark: str) -> bool:
        self.skip()
        return self.text.startswith(mark, self.at)

    def take(self, mark: str) -> bool:
        if self.sees(mark):
            self.at += len(mark)
            return True
        return False

    def follows(self, mark: str) -> bool:
        """Whether a mark comes next on this line; a comment is not passed over, since it may be a source line."""
        at = self.at
        while self.text[at : at + 1] in (" ", "\t"):
            at += 1
        return self.text.startswith(mark, at)

    def need(self, mark: str) -> None:
        if not self.take(mark):
            self.fail(repr(mark))

    def match(self, pattern: re.Pattern[str], expected: str) -> str:
        self.skip()
        found = pattern.match(self.text, self.at)
        if found is None or not found.group():
            self.fail(expected)
        self.at = found.end()
        return found.group()

    def many(self, close: str, one: Callable[[], T]) -> list[T]:
        """Read things between here and a closing mark, commas between them."""
        found: list[T] = []
        if self.take(close):
            return found
        while True:
            found.append(one())
            if self.take(close):
                return found
            if not self.take(","):
                self.fail(f"',' or {close!r}")

    def word(self, expected: str) -> str:
        return self.match(_WORD, expected)

    def keyword(self, word: str) -> None:
        self.skip()
        at = self.at
        if self.word(repr(word)) != word:
            self.fail(repr(word), at)

    def string(self) -> str:
        at = self.at
        raw = self.match(_STRING, "a string in quotes")
        try:
            return json.loads(raw)
        except json.JSONDecodeError:
            self.fail("a string in quotes", at)

    def name(self, mark: str) -> str:
        self.need(mark)
        if self.text.startswith('"', self.at):
            return self.string()
        found = _WORD.match(self.text, self.at)
        if found is None:
            self.fail(f"a name after {mark!r}")
        self.at = found.end()
        return found.group()

    def integer(self) -> int:
        at = self.at
        raw = self.match(_NUMBER, "an integer")
        if not raw.lstrip("-").isdigit():
            self.fail("an integer", at)
        return int(raw)

    def number(self) -> int | float:
        raw = self.match(_NUMBER, "a number")
        return int(raw) if raw.lstrip("-").isdigit() else float(raw)

    # --- graphs ----------------------------------------------------------------------------------

    def graph(self) -> Graph:
        self.keyword("graph")
        name = self.name("@")
        values: dict[str, Value] = {}
        self.need("(")
        inputs = self.many(")", lambda: self.input(values))
        facts = self.facts()
        self.need("{")
        constants: list[Constant] = []
        ops: list[Op] = []
        while not self.sees("return"):
            self.statement(values, constants, ops)
        self.at += len("return")
        outputs = [self.operand(values)] if self.sees("%") else []
        while self.take(","):
            outputs.append(self.operand(values))
        self.need("}")
        return Graph(name, tuple(inputs), tuple(constants), tuple(ops), tuple(outputs), facts)

    def input(self, values: dict[str, Value]) -> Value:
        at = self.at
        name = self.name("%")
        self.need(":")
        value = Value(name, self.type())
        self.define(values, value, at)
        return value

    def facts(self) -> Facts:
        if not self.take("where"):
            return Facts()
        self.skip()
        start = self.at
        end = self.text.find("\n", start)
        line = self.text[start : end if end >= 0 else len(self.text)].split("//")[0]
        stop = line.rfind("{")
        if stop < 0:
            self.fail("'{' at the end of this line", start + len(line.rstrip()))
        if end < 0 or "return" in line:
            # A program on one line: the clause ends at the brace that opens the body.
            stop = _body(line)
        clause = line[:stop]
        try:
            found = parse_facts(clause.strip())
        except MlsysoptError as error:
            self.refuse(f"in the where clause: {error}", start)
        self.at = start + stop
        return found

    def statement(self, values: dict[str, Value], constants: list[Constant], ops: list[Op]) -> None:
        self.skip()
        start = self.at
        names = [self.result()]
        while self.take(","):
            names.append(self.result())
        self.need("=")
        self.skip()
        at = self.at
        kind = self.word("an op, or const")
        if kind == "const":
            constants.append(self.constant(names, start))
            self.define(values, constants[-1].value, start)
            return
        op = self.op(kind, names, values, at)
        for value in op.results:
            self.define(values, value, start)
        ops.append(op)

    def result(self) -> str:
        found = _NAME.match(self.text, self.at)
        if found is not None:
            self.at = found.end()
            return found.group(1)
        if not self.sees("%"):
            self.fail("'%' and the name of a value, or 'return'")
        return self.name("%")

    def define(self, values: dict[str, Value], value: Value, at: int) -> None:
        if value.name in values:
            self.refuse(f"%{value.name} is defined twice", at)
        values[value.name] = value

    def operand(self, values: dict[str, Value]) -> Value:
        self.skip()
        at = self.at
        name = self.result()
        found = values.get(name)
        if found is None:
            self.refuse(f"%{name} is not defined above; {near_misses(name, values, noun='value')}", at)
        return found

    def constant(self, names: list[str], at: int) -> Constant:
        if len(names) != 1:
            self.refuse("a constant has one name", at)
        label = self.name("@") if self.sees("@") else ""
        self.need(":")
        type_at = self.at
        kind = self.type()
        if any(not size.is_constant for size in kind.shape):
            self.refuse(f"a constant's sizes are numbers, got {kind}", type_at)
        key = self.string() if self.sees('"') else self.match(_KEY, "the key of its content, e.g. blake2=9f0c")
        source: Source = Absent(key)
        return Constant(Value(names[0], kind), source, label)

    def op(self, kind: str, names: list[str], values: dict[str, Value], at: int) -> Op:
        try:
            found = lookup(kind)
        except UsageError as error:
            self.refuse(str(error), at)
        self.need("(")
        operands = tuple(self.many(")", lambda: self.operand(values)))
        given: dict[str, Attr] = dict(self.attrs(found)) if self.sees("{") else {}
        regions: tuple[Graph, ...] = ()
        if self.take("do"):
            self.need("(")
            regions = tuple(self.many(")", self.graph))
        self.need(":")
        types = self.types()
        if len(types) != len(names):
            self.refuse(f"{kind}: {len(names)} results need as many types, got {len(types)}", at)
        try:
            check_operands(found, len(operands))
            attrs = found.complete(given)
        except TypeRuleError as error:
            self.refuse(str(error), at)
        results = tuple(Value(name, one) for name, one in zip(names, types, strict=True))
        return Op(kind, operands, results, attrs, regions, self.loc())

    def loc(self) -> Loc:
        comment = _COMMENT.match(self.text, self.at)
        if comment is None:
            return NOWHERE
        self.at = comment.end()
        found = _PLACE.fullmatch(comment.group(1))
        if found is None:
            return NOWHERE
        file, line, module, alone = found.groups()
        if alone is not None:
            return Loc(module=alone)
        return Loc(file, int(line), module or "")

    # --- attributes ------------------------------------------------------------------------------

    def attrs(self, found: OpDef) -> list[tuple[str, Attr]]:
        self.need("{")

        def one() -> tuple[str, Attr]:
            at = self.at
            name = self.word("the name of an attribute")
            spec = found.attrs.get(name)
            if spec is None:
                self.skip()
                message = near_misses(name, found.attrs, noun="attribute")
                self.refuse(f"{found.kind}: unknown attribute {name!r}; {message}", at)
            self.need("=")
            return name, self.attr(spec.kind)

        return self.many("}", one)

    def attr(self, kind: str) -> Attr:
        self.skip()
        start = self.text[self.at : self.at + 1]
        if start == '"':
            return self.string()
        if start == "[" and kind not in ("dtype", "type", "dim"):
            self.at += 1
            inner = "any" if kind == "any" else "ints" if kind == "pairs" else kind.removesuffix("s")
            return tuple(self.many("]", lambda: self.attr(inner)))
        for word, value in (("true", True), ("false", False), ("none", None)):
            if self.text.startswith(word, self.at) and not _WORD.match(self.text, self.at + len(word)):
                self.at += len(word)
                return value
        if kind == "dim":
            return self.size()
        if kind == "dtype":
            return self.element()
        if kind == "type":
            return self.type()
        if start == "<":
            self.at += 1
            size = self.size()
            self.need(">")
            return size
        if start == "!":
            self.at += 1
            mark = self.at
            element = self.element()
            if not self.text.startswith("[", self.at):
                return element
            self.at = mark
            return self.type()
        return self.number()

    # --- types -----------------------------------------------------------------------------------

    def types(self) -> tuple[TensorType, ...]:
        """Read the types at the end of an op; a line of types seen before is not read again."""
        self.skip()
        rest = _REST.match(self.text, self.at)
        line = rest.group() if rest else ""
        if known := self._types.get(line):
            self.at += len(line)
            return known
        start = self.at
        found = [self.type()]
        while self.follows(","):
            self.need(",")
            found.append(self.type())
        types = tuple(found)
        if self.at == start + len(line):
            self._types[line] = types
        return types

    def element(self) -> DType:
        self.skip()
        at = self.at
        word = self.word("an element type, e.g. f32")
        if word not in DTYPES:
            try:
                dtype(word)
            except UsageError as error:
                self.refuse(str(error), at)
            self.refuse(f"unknown element type {word!r}; did you mean {dtype(word)}?", at)
        return DTYPES[word]

    def type(self) -> TensorType:
        element = self.element()
        self.need("[")
        shape = tuple(self.many("]", self.size))
        layout = self.layout() if self.text.startswith("{", self.at) else DENSE
        placement = self.placement() if self.follows("@(") else None
        quant = self.quant() if self.follows("q(") else None
        return TensorType(element, shape, layout, placement, quant)

    def size(self) -> Dim:
        self.skip()
        simple = _SIMPLE_SIZE.match(self.text, self.at)
        if simple is None:
            return self.formula()
        raw = simple.group()
        known = self._sizes.get(raw)
        if known is None:
            known = self._sizes[raw] = self.formula()
        self.at = simple.end()
        return known

    def formula(self) -> Dim:
        at = self.at
        reader = DimReader(self.text, at)
        try:
            found = reader.sum()
        except UsageError:
            self.fail("a size, e.g. 8 or 2*S + 1", at)
        self.at = reader.position
        return found

    def layout(self) -> Layout:
        self.need("{")
        if self.take("opaque"):
            tag = self.match(re.compile(r"[\w.\-]+"), "the tag of an opaque layout")
            self.need("}")
            return Opaque(tag)
        order = [self.integer()]
        while self.take(","):
            order.append(self.integer())
        if self.take("}"):
            return Dense(tuple(order))
        self.need(";")
        self.keyword("tile")
        return Blocked(tuple(order), tuple(self.many("}", self.integer)))

    def placement(self) -> Placement:
        at = self.at
        self.need("@(")
        axes: list[str] = []
        sizes: list[int] = []
        while True:
            axes.append(self.word("the name of a mesh axis"))
            self.need("=")
            sizes.append(self.integer())
            if self.take(";"):
                break
            if not self.take(","):
                self.fail("',' or ';'")
        along = self.many(")", self.along)
        try:
            return Placement(Mesh(tuple(axes), tuple(sizes)), tuple(along))
        except UsageError as error:
            self.refuse(str(error), at)

    def along(self) -> Axis:
        at = self.at
        word = self.word("R, P or S and an axis")
        if word == "R":
            return Replicate()
        if word == "P":
            return Partial()
        if word[0] == "S" and word[1:].isdigit():
            return Shard(int(word[1:]), self.take("?"))
        self.fail("R, P or S and an axis", at)

    def quant(self) -> Quant:
        at = self.at
        self.need("q(")
        scales = [float(self.number())]
        while self.take(","):
            scales.append(float(self.number()))
        self.need(";")
        zeros = [self.integer()]
        while self.take(","):
            zeros.append(self.integer())
        axis = self.integer() if self.take(";") else None
        self.need(")")
        try:
            return Quant(tuple(scales), tuple(zeros), axis)
        except UsageError as error:
            self.refuse(str(error), at)


def _body(line: str) -> int:
    """Return the place of the brace that opens the body in a where clause and what follows it."""
    at = 0
    while (at := line.find("{", at)) >= 0:
        # `likely {128: 0.5}` is the only brace that belongs to a clause.
        if not line[:at].rstrip().endswith("likely"):
            return at
        at += 1
    return len(line)
