"""What `mlsysopt graph show` and `check` print."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mlsysopt.cli.documents import Document, table
from mlsysopt.core.errors import UsageError
from mlsysopt.core.quantities import format_bytes
from mlsysopt.graph import Dim, Graph, cost, eq
from mlsysopt.graph.facts import facts_text
from mlsysopt.graph.text import print_graph
from mlsysopt.graph.verify import findings

__all__ = ["checked", "explained", "shown"]

_KINDS = 8


def shown(program: Graph, *, text_only: bool = False) -> Document:
    """Describe a program: signature, symbols, weights, costs, and the program itself."""
    kinds = Counter(op.kind for op in program.ops)
    total = cost(program)
    weights = sum(int(constant.type.bytes) for constant in program.constants)
    data: dict[str, Any] = {
        "graph": program.name,
        "signature": program.signature,
        "inputs": {value.name: str(value.type) for value in program.inputs},
        "outputs": {value.name: str(value.type) for value in program.outputs},
        "symbols": list(program.symbols),
        "facts": facts_text(program.facts),
        "ops": len(program.ops),
        "kinds": dict(kinds.most_common()),
        "opaque": sum(count for kind, count in kinds.items() if kind.startswith("opaque.")),
        "constants": len(program.constants),
        "weight_bytes": weights,
        "flops": str(total.flops),
        "read_bytes": str(total.read_bytes),
        "write_bytes": str(total.write_bytes),
    }
    if text_only:
        return Document(str(program), {**data, "text": str(program)})
    common = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common(_KINDS))
    more = f", {len(kinds) - _KINDS} other kinds" if len(kinds) > _KINDS else ""
    rows = [
        ["ops", f"{len(program.ops)}: {common}{more}"],
        ["weights", f"{len(program.constants)} constants, {format_bytes(weights)}"],
        ["flops", _formula(total.flops)],
        ["bytes", f"reads {_formula(total.read_bytes)}"],
        ["", f"writes {_formula(total.write_bytes)}"],
    ]
    if data["opaque"]:
        rows.insert(1, ["opaque", f"{data['opaque']} ops that the graph does not know"])
    text = (
        f"{program.signature}\n\n{table(['', ''], rows).split(chr(10), 1)[1]}\n\n{print_graph(program, weights=False)}"
    )
    return Document(text, data)


def checked(program: Graph) -> Document:
    """Report every broken rule of a program."""
    found = findings(program)
    data = {
        "graph": program.name,
        "ops": len(program.ops),
        "findings": [
            {"rule": one.rule, "what": one.what, "message": one.message, "source": str(one.loc)} for one in found
        ],
    }
    if not found:
        what = f"{len(program.ops)} ops, {len(program.constants)} constants, {len(program.symbols)} symbols"
        return Document(f"{program.name}: {what}, no finding", data)
    return Document("\n".join([*map(str, found), f"{len(found)} findings"]), data, 1)


def explained(program: Graph, question: str) -> Document:
    """Say which ops make two sizes equal; `question` is `A=B`."""
    left, equals, right = question.partition("=")
    if not equals:
        raise UsageError(f"--why {question!r}: write A=B, e.g. S=T or B*S=N")
    asked = eq(Dim.parse(left.strip()), Dim.parse(right.strip()))
    answer = program.facts.ask(asked)
    reasons = [str(origin) for origin in program.facts.why(asked)]
    lines = [f"{left.strip()} = {right.strip()}: {answer.name.lower()}", *(f"  {reason}" for reason in reasons)]
    return Document("\n".join(lines), {"question": question, "answer": answer.name.lower(), "reasons": reasons})


def _formula(size: Dim) -> str:
    if size.constant is not None:
        return f"{size.constant:,}"
    text = str(size)
    return text if len(text) <= 100 else f"{text[:97]}..."
