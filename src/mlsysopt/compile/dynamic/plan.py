"""What an executable will do, as data: the flow, where weights come from, what leaves native code, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlsysopt.compile.codegen.steps import Call, CallOut, Choice, Flow, Place
from mlsysopt.compile.variants.decision import Decision
from mlsysopt.graph.symbolic import Dim

__all__ = ["Outside", "Plan", "Product", "Tensor", "Weight"]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value in memory.

    Attributes:
        place: Its first byte.
        dtype: Name of its element type.
        shape: Sizes.
        strides: Elements between neighbours along each axis.
    """

    place: Place
    dtype: str
    shape: tuple[Dim, ...]
    strides: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.place} {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class Weight:
    """An array that the flow reads and no call gives.

    Attributes:
        constant: Name of the program's constant.
        form: "" for its own bytes, else the form that they are packed to: "f32", "bf16", "int8".
        part: "weights", or "scales" of a form that has some.
        matrix: What of the constant is packed: rows, columns and their strides in elements; None for all of it.
    """

    constant: str
    form: str = ""
    part: str = "weights"
    matrix: tuple[int, int, int, int] | None = None

    def __str__(self) -> str:
        return f"{self.constant}{f' packed {self.form}' if self.form else ''}{' scales' * (self.part == 'scales')}"


@dataclass(frozen=True, slots=True)
class Product:
    """A product with constant weights, done by a variant that generated code cannot call.

    Attributes:
        variant: Its name.
        weight: The weights as a matrix [N, K].
        bias: Name of the constant that is added, "" for none.
        activation: As in `Epilogue`.
        residual: Whether the second operand is added last.
    """

    variant: str
    weight: Weight
    bias: str = ""
    activation: str = ""
    residual: bool = False


@dataclass(frozen=True, slots=True)
class Outside:
    """An op that Python carries out.

    Attributes:
        op: Name of the op in the program.
        operands, results: Where its operands and results are, in its own order.
        why: Why it leaves native code, one line.
        product: The library's kernel that does it, None for the op itself.
    """

    op: str
    operands: tuple[Tensor, ...]
    results: tuple[Tensor, ...]
    why: str = ""
    product: Product | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A program, lowered.

    Attributes:
        name: Name of the program.
        flow: Its steps.
        weights: What each constant of the flow is.
        outsides: What each call-out of the flow does.
        members: Names of the values that live in each slot, in order.
        decisions: Op -> kernels by number of rows.
        missed: What was not fused, and why, a line each.
        values: Where each value is that comes to memory, at the time when it was made.
    """

    name: str
    flow: Flow
    weights: tuple[Weight, ...] = ()
    outsides: tuple[Outside, ...] = ()
    members: tuple[tuple[str, ...], ...] = ()
    decisions: Mapping[str, Decision] = field(default_factory=dict[str, Decision])
    missed: tuple[str, ...] = ()
    values: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    def __str__(self) -> str:
        flow = self.flow
        lines = [f"plan {self.name}({', '.join(flow.symbols)})"]
        lines += [f"  constant{i} = {weight}" for i, weight in enumerate(self.weights)]
        for i, (size, names) in enumerate(zip(flow.slots, self.members, strict=True)):
            lines.append(f"  slot{i}: {size} B for {', '.join(names)}")
        for step in flow.steps:
            lines += _step(step, "  ")
        if self.missed:
            lines += ["not fused:", *(f"  {line}" for line in self.missed)]
        return "\n".join(lines)


def _step(step: Call | CallOut | Choice, indent: str) -> list[str]:
    if isinstance(step, Choice):
        lines: list[str] = []
        for conditions, calls in step.cases:
            held = " and ".join(map(str, conditions))
            lines.append(f"{indent}if {held}:" if held else f"{indent}else:")
            for call in calls:
                lines += _step(call, indent + "  ")
        return lines
    if isinstance(step, CallOut):
        reads, writes = (", ".join(map(str, places)) for places in (step.reads, step.writes))
        return [f"{indent}python{step.function}({reads}) -> {writes}{_label(step.label)}"]
    given = ", ".join(map(str, step.buffers))
    params = f"; {', '.join(map(str, step.params))}" if step.params else ""
    scratch = f" scratch {step.scratch_bytes} B" if step.scratch_bytes != 0 else ""
    return [f"{indent}{step.kernel}({given}{params}) x {step.units}{scratch}{_label(step.label)}"]


def _label(label: str) -> str:
    return f"  // {label}" if label else ""
