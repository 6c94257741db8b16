"""What `mlsysopt compile build` and `explain` say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlsysopt.cli.documents import Document
from mlsysopt.core.quantities import format_bytes

if TYPE_CHECKING:
    from mlsysopt.compile import Executable

__all__ = ["built", "explained"]


def built(run: Executable, out: Path | None) -> Document:
    """Say what became of a model, and write it to a file when one is named."""
    flow = run.plan.flow
    bound = run.memory_bound()
    stages: Mapping[str, float] = run.stages
    data: dict[str, Any] = {
        "name": run.graph.name,
        "signature": run.graph.signature,
        "ops": len(run.source.ops),
        "steps": len(flow.steps),
        "call_outs": [_outside(run, one) for one in run.plan.outsides],
        "stages_s": {name: round(seconds, 4) for name, seconds in stages.items()},
        "memory": {"arena": str(bound.arena), "scratch": str(bound.scratch), "packed_bytes": bound.weights_bytes},
        "notes": list(run.notes),
    }
    lines = [
        run.graph.signature,
        f"{len(run.source.ops)} ops became {len(flow.steps)} steps, {len(run.plan.outsides)} of them outside "
        f"native code; {format_bytes(bound.weights_bytes)} of packed weights",
        "CPU seconds: " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in stages.items()),
    ]
    lines += [f"runs through torch: {one}" for one in data["call_outs"]]
    lines += run.notes
    if out is not None:
        written = run.save(out)
        data |= {"out": str(written), "bytes": written.stat().st_size}
        lines.append(f"wrote {written}: {format_bytes(written.stat().st_size)}")
    return Document("\n".join(lines), data)


def explained(run: Executable, sizes: Mapping[str, int], *, measure: bool, as_plan: bool) -> Document:
    """Say what was fused, and what runs at a size."""
    if as_plan:
        return Document(str(run.plan), {"plan": str(run.plan)})
    explanation = run.explain(measure=measure, **sizes)
    return Document(str(explanation), explanation.to_json())


def _outside(run: Executable, outside: Any) -> str:
    op = next(one for one in run.graph.ops if one.name == outside.op)
    return f"{op.where()}{f' ({outside.why})' if outside.why else ''}"
