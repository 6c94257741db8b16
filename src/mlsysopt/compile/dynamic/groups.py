"""What a program is planned into: kernels of fused ops, anchors, foreign ops - and what did not fuse and why."""

from __future__ import annotations

from dataclasses import dataclass

from mlsysopt.compile.dynamic.anchors import Anchor
from mlsysopt.compile.dynamic.prepare import Prepared
from mlsysopt.compile.dynamic.roles import Role
from mlsysopt.compile.dynamic.views import Layouts
from mlsysopt.graph.ir import Graph, Op, Value

__all__ = ["Foreign", "Fusion", "FusionGroup", "Missed", "Step"]


@dataclass(frozen=True, slots=True)
class FusionGroup:
    """Ops that become one kernel.

    Attributes:
        ops: Ops that it computes, in order; free ops between them are not named.
        inputs: Values whose bytes it reads.
        outputs: Values that it stores.
        kind: "elementwise", "row" or "column" (which way it folds), "gather", "copy".
        inlined: Ops of others that it computes again rather than read.
    """

    ops: tuple[Op, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    kind: str
    inlined: tuple[Op, ...] = ()

    @property
    def label(self) -> str:
        """What it does, for people: kinds in order, and where it comes from."""
        kinds = [op.kind for op in self.ops if op.kind not in ("cast", "reshape")] or [op.kind for op in self.ops]
        shown = ", ".join(kinds[:6]) + (f" and {len(kinds) - 6} more" if len(kinds) > 6 else "")
        place = next((str(op.loc) for op in self.ops if str(op.loc)), "")
        return f"{shown} at {place}" if place else shown

    def __str__(self) -> str:
        kinds = ", ".join(op.kind for op in self.ops)
        read = ", ".join(f"%{value.name}" for value in self.inputs)
        made = ", ".join(f"%{value.name}: {value.type}" for value in self.outputs)
        again = f" again {', '.join('%' + op.name for op in self.inlined)};" if self.inlined else ""
        return f"{self.kind}: {kinds};{again} reads {read or 'nothing'}\n    -> {made}"


@dataclass(frozen=True, slots=True)
class Foreign:
    """An op without native form."""

    op: Op

    @property
    def ops(self) -> tuple[Op, ...]:
        return (self.op,)

    @property
    def inputs(self) -> tuple[Value, ...]:
        return tuple(dict.fromkeys(self.op.operands))

    @property
    def outputs(self) -> tuple[Value, ...]:
        return self.op.results

    def __str__(self) -> str:
        read = ", ".join(f"%{value.name}" for value in self.inputs)
        return f"{self.op.where()} ({read}) -> {', '.join(f'%{value.name}' for value in self.outputs)}"


Step = FusionGroup | Anchor | Foreign


@dataclass(frozen=True, slots=True)
class Missed:
    """Two groups that share a value and stayed apart.

    Attributes:
        value: The value that goes through memory.
        reader: The op that reads it.
        reason: Why.
        fact: What would have to be known of the sizes, "" when no fact helps.
        bytes: Bytes that are moved for it at typical sizes.
    """

    value: Value
    reader: Op
    reason: str
    fact: str = ""
    bytes: int = 0

    def __str__(self) -> str:
        missing = f"; not known: {self.fact}" if self.fact else ""
        return f"%{self.value.name} -> {self.reader.where()}: {self.reason}{missing}"


@dataclass(frozen=True)
class Fusion:
    """A program as steps that can run in their order.

    Attributes:
        prepared: The program in primitives, with roles and layouts.
        steps: What is done.
        missed: What did not fuse, most bytes first.
        sizes: Typical sizes that were used for prices.
    """

    prepared: Prepared
    steps: tuple[Step, ...]
    missed: tuple[Missed, ...]
    sizes: dict[str, int]

    @property
    def graph(self) -> Graph:
        return self.prepared.graph

    @property
    def layouts(self) -> Layouts:
        return self.prepared.layouts

    @property
    def groups(self) -> tuple[FusionGroup, ...]:
        return tuple(step for step in self.steps if isinstance(step, FusionGroup))

    @property
    def fused_share(self) -> float:
        """Share of the ops that move memory and end in generated kernels, of all that are no anchors."""
        native = sum(len(group.ops) for group in self.groups)
        foreign = sum(role is Role.FOREIGN for role in self.prepared.roles.values())
        return native / (native + foreign) if native + foreign else 1.0

    def __str__(self) -> str:
        lines: list[str] = []
        for number, step in enumerate(self.steps):
            word = "" if isinstance(step, FusionGroup) else "anchor " if isinstance(step, Anchor) else "foreign "
            lines.append(f"{number}: {word}{step}")
            lines += [f"    %{value.name} at {self.layouts[value]}" for value in step.outputs if self._moved(value)]
        if self.missed:
            lines.append("apart:")
            lines += [f"  {one}" for one in self.missed]
        return "\n".join(lines) + "\n"

    def _moved(self, value: Value) -> bool:
        view = self.layouts.view(value)
        return view is not None and view.base != value
