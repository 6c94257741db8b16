"""Ops with kernels of their own, lowered: products by packed panels, attention, and what becomes of the others."""

from __future__ import annotations

from typing import cast

from mlsysopt.compile.codegen.steps import NOWHERE, Condition, Place
from mlsysopt.compile.dynamic.anchors import Anchor
from mlsysopt.compile.dynamic.lower import Buffer, Draft, Lowering
from mlsysopt.compile.dynamic.plan import Outside, Product, Tensor, Weight
from mlsysopt.compile.dynamic.strides import collapsible
from mlsysopt.compile.dynamic.views import View
from mlsysopt.compile.variants.decision import Decision
from mlsysopt.graph.facts import Answer, Facts
from mlsysopt.graph.ir import Value
from mlsysopt.graph.symbolic import Dim, minimum, multiplied

__all__ = ["lower_anchor", "why_not"]

_ZERO, _ONE = Dim.of(0), Dim.of(1)
_FORMS = {"panel.f32": "f32", "panel.bf16w": "bf16", "panel.int8w": "int8"}
"""Variants that generated code calls, and the form of the weights that they read."""
_OF_PRECISION = {"f32": "panel.f32", "bf16": "panel.bf16w", "int8w": "panel.int8w"}

# Nanoseconds of a multiply-add and of a byte of weights on one thread, roughly: what decides about forks.
_MULTIPLY_ADDS_PER_NS, _BYTES_PER_NS = 40, 10


def lower_anchor(lowering: Lowering, anchor: Anchor) -> None:
    """Append the steps of an anchor: a native kernel, a choice of kernels, or a step of Python."""
    why = why_not(lowering, anchor)
    if why:
        _outside(lowering, anchor, why)
    elif anchor.op.kind == "attention":
        _attention(lowering, anchor)
    elif _has_panels(lowering, anchor):
        _product(lowering, anchor)
    else:
        _varying(lowering, anchor)


def why_not(lowering: Lowering, anchor: Anchor) -> str:
    """Return why an anchor has no native kernel, "" when it has one."""
    op = anchor.op
    wide = sorted({value.type.dtype.name for value in anchor.inputs if value.type.dtype.is_float} - {"f32"})
    if op.kind not in ("linear", "matmul", "attention"):
        return f"{op.kind} has no native kernel"
    if wide:
        return f"{op.kind} of {wide[0]} has no native kernel"
    if op.kind == "attention" and op.result.type.rank > 4:
        return "its batch has more than two axes"
    return ""


def _has_panels(lowering: Lowering, anchor: Anchor) -> bool:
    """Whether the weights are a constant matrix, so that they are packed once."""
    w = anchor.op.operands[1]
    view = lowering.view(w)
    # What is packed starts where its constant does: a later part of one is read as weights that vary are.
    return w.type.rank == 2 and view.base in lowering.constants and view.offset == 0


def _outside(lowering: Lowering, anchor: Anchor, why: str) -> None:
    lowering.add(lowering.outside(anchor.op, why))
    if anchor.absorbed:
        for op in anchor.absorbed:
            lowering.add(lowering.outside(op, f"it follows {anchor.op.kind}, which has no native kernel"))


def _product(lowering: Lowering, anchor: Anchor) -> None:
    """y[M, N] = epilogue(x[M, K] w[N, K]^T), with the kernel that its decision says for each M."""
    decision = lowering.decisions.get(anchor.op.name)
    if decision is None or not _is_possible(lowering, anchor, decision):
        decision = Decision.always(_OF_PRECISION[lowering.options.precision])
    else:
        lowering.taken[anchor.op.name] = decision
    m = multiplied(anchor.op.operands[0].shape[:-1])
    cases: list[tuple[tuple[Condition, ...], Draft]] = []
    segments = decision.segments
    for i, segment in enumerate(segments):
        last = i + 1 == len(segments)
        conditions = () if last else (Condition(m, "<", Dim.of(segments[i + 1].first)),)
        native = _FORMS.get(segment.variant)
        draft = _panel(lowering, anchor, m, native) if native else _library(lowering, anchor, m, segment.variant)
        cases.append((conditions, draft))
    lowering.add(lowering.choose(cases))


def _panel(lowering: Lowering, anchor: Anchor, m: Dim, form: str) -> Draft:
    from mlsysopt.compile.codegen.panel import Gemm, gemm

    op, y = anchor.op, anchor.result
    x, w = op.operands[:2]
    epilogue = anchor.epilogue
    spec = Gemm(form, True, epilogue.bias, epilogue.activation, epilogue.residual)
    kernel = gemm(lowering.module, lowering.isa, spec)
    n, k, matrix = _matrix(lowering, anchor)
    weights = lowering.weight(Weight(lowering.view(w).base.name, form, matrix=matrix))
    scales: Place = NOWHERE
    if form == "int8":
        scales = lowering.weight(Weight(lowering.view(w).base.name, form, "scales", matrix))
    bias: Buffer = lowering.ref(anchor.bias) if anchor.bias is not None else NOWHERE
    residual: Buffer = lowering.ref(anchor.residual) if anchor.residual is not None else NOWHERE
    ldr = _rows(anchor.residual, lowering.view(anchor.residual)) if anchor.residual is not None else _ZERO
    params = (m, n, k, _rows(x, lowering.view(x)), _ZERO, ldr, _rows(y, lowering.view(y)))
    element = {"f32": 4, "bf16": 2, "int8": 1}[form]
    work = m * (n * k // _MULTIPLY_ADDS_PER_NS) + n * k * element // _BYTES_PER_NS
    return lowering.call(
        kernel,
        (lowering.ref(x), weights, scales, bias, residual, lowering.ref(y)),
        params,
        reads=[value for value in (x, anchor.bias, anchor.residual) if value is not None],
        writes=[y],
        label=_label(anchor),
        ops=[one.name for one in anchor.ops],
        work=work,
    )


def _is_possible(lowering: Lowering, anchor: Anchor, decision: Decision) -> bool:
    """Whether every variant can be called: a library's wants a bias that is a constant, and all of it."""
    if anchor.bias is None or set(decision.variants) <= set(_FORMS):
        return True
    base = lowering.view(anchor.bias).base
    return base in lowering.constants and base.type.elements == anchor.bias.type.elements


def _library(lowering: Lowering, anchor: Anchor, m: Dim, variant: str) -> Draft:
    op, y = anchor.op, anchor.result
    n, k, matrix = _matrix(lowering, anchor)
    bias = lowering.view(anchor.bias).base.name if anchor.bias is not None else ""
    product = Product(
        variant,
        Weight(lowering.view(op.operands[1]).base.name, matrix=matrix),
        bias,
        anchor.epilogue.activation,
        anchor.residual is not None,
    )
    reads = [value for value in (op.operands[0], anchor.residual) if value is not None]
    tensors = [
        Tensor(NOWHERE, value.type.dtype.name, (m, Dim.of(width)), (_rows(value, lowering.view(value)), _ONE))
        for value, width in zip((*reads, y), (k, *[n] * len(reads)), strict=True)
    ]
    why = f"{variant} was decided for it"
    outside = Outside(op.name, tuple(tensors[:-1]), (tensors[-1],), why, product)
    return lowering.leave(outside, reads, [y], _label(anchor), [one.name for one in anchor.ops])


def _varying(lowering: Lowering, anchor: Anchor) -> None:
    """A product of two operands that both vary; its only epilogue is the bias that is an operand of its own."""
    from mlsysopt.compile.codegen.batched import batched, product_units

    op, y = anchor.op, anchor.result
    x, w = op.operands[:2]
    views = [lowering.view(value) for value in (x, w, y)]
    linear = op.kind == "linear"
    turned = linear or bool(op.attrs["transpose_b"])
    # Elements between two rows and between two columns of w as a matrix [N, K]; neighbours lie along one of them.
    rows, columns = (-2, -1) if turned else (-1, -2)
    n, k = w.shape[rows], w.shape[columns]
    along_k = k == 1 or views[1].strides[columns] == 1
    ldw = views[1].strides[rows if along_k else columns]
    if linear or (w.type.rank == 2 and _are_rows(lowering, x) and _are_rows(lowering, y)):
        batch: tuple[Dim, ...] = ()
        m, ldx, ldy = multiplied(x.shape[:-1]), _rows(x, views[0]), _rows(y, views[2])
    else:
        batch, m = y.shape[:-2], y.shape[-2]
        ldx, ldy = views[0].strides[-2], views[2].strides[-2]
    kernel = batched(lowering.module, lowering.isa, len(batch), transposed=along_k, bias=anchor.bias is not None)
    strides = [
        step
        for value, view in zip((x, w, y), views, strict=True)
        for step in _batch_strides(value, view, batch, lowering.graph.facts)
    ]
    each = product_units(lowering.isa, m, n)
    count = multiplied(batch)
    added = [lowering.ref(anchor.bias)] if anchor.bias is not None else []
    lowering.add(
        lowering.call(
            kernel,
            (lowering.ref(x), lowering.ref(w), lowering.ref(y), *added),
            (*batch, *strides, m, n, k, ldx, ldw, ldy, each),
            reads=[value for value in (x, w, anchor.bias) if value is not None],
            writes=[y],
            label=_label(anchor),
            ops=[one.name for one in anchor.ops],
            work=count * m * n * k // _MULTIPLY_ADDS_PER_NS,
        )
    )


def _batch_strides(value: Value, view: View, batch: tuple[Dim, ...], facts: Facts) -> list[Dim]:
    """Return the strides of a value along the axes of the result's batch."""
    if not batch:
        return []
    matrices = Value(value.name, value.type.with_shape(value.shape[:-2]))
    return _spread(matrices, View(view.base, view.offset, view.strides[:-2]), batch, facts)


def _spread(value: Value, view: View, wanted: tuple[Dim, ...], facts: Facts) -> list[Dim]:
    """Return the strides of a value that is broadcast to a shape."""
    lead = len(wanted) - value.type.rank
    found = [_ZERO] * lead
    for size, stride, whole in zip(value.shape, view.strides, wanted[lead:], strict=True):
        if size == 1:
            found.append(_ZERO)
        elif size == whole or facts.eq(size, whole) is Answer.YES or facts.eq(size, 1) is Answer.NO:
            found.append(stride)
        else:
            # Whether it is 1 comes out at run time: then its elements are all the same one.
            found.append(stride * minimum(size - 1, 1))
    return found


def _are_rows(lowering: Lowering, value: Value) -> bool:
    """Whether all axes but the last can be taken as one."""
    view = lowering.view(value)
    return collapsible(value.shape[:-1], view.strides[:-1], lowering.graph.facts)


def _matrix(lowering: Lowering, anchor: Anchor) -> tuple[int, int, tuple[int, int, int, int]]:
    """Return N, K, and where the constant holds the weights as a matrix [N, K]."""
    w = anchor.op.operands[1]
    strides = [int(stride) for stride in lowering.view(w).strides]
    rows, columns = (int(size) for size in w.shape)
    turned = anchor.op.kind == "matmul" and not anchor.op.attrs["transpose_b"]
    if turned:
        return columns, rows, (columns, rows, strides[1], strides[0])
    return rows, columns, (rows, columns, strides[0], strides[1])


def _rows(value: Value, view: View) -> Dim:
    """Return the elements between two rows, when all axes but the last are taken as one."""
    for size, stride in zip(reversed(value.shape[:-1]), reversed(view.strides[:-1]), strict=True):
        if size != 1:
            return stride
    return value.shape[-1]


def _label(anchor: Anchor) -> str:
    words = "+".join([anchor.op.kind, *(one.kind for one in anchor.absorbed)])
    where = anchor.op.where()
    return f"{words} {where.removeprefix(anchor.op.kind).strip()}"


def _attention(lowering: Lowering, anchor: Anchor) -> None:
    """softmax(q k' * scale + mask) v, its scores never in memory as a whole."""
    from mlsysopt.compile.codegen.attention import USUAL_SCALE, Attention, attention, scale_bits

    op, out = anchor.op, anchor.result
    q, k, v, *masks = op.operands
    facts = lowering.graph.facts
    mask = masks[0] if masks else None
    spec = Attention(mask.type.dtype.name if mask is not None else "", bool(op.attrs["causal"]))
    kernel = attention(lowering.module, lowering.isa, spec)
    batch = out.shape[:-2]
    lead = [_ONE] * (2 - len(batch))
    queries, keys, features, values = q.shape[-2], k.shape[-2], q.shape[-1], v.shape[-1]
    scale = op.attrs["scale"]
    strides: list[Dim] = []
    for value in (q, k, v, out):
        view = lowering.view(value)
        strides += [*[_ZERO] * len(lead), *_batch_strides(value, view, batch, facts), view.strides[-2]]
    wanted = (*batch, queries, keys)
    along = _spread(mask, lowering.view(mask), wanted, facts) if mask is not None else [_ZERO] * len(wanted)
    sizes = (*lead, *batch, queries, keys, features, values)
    params = (
        *sizes,
        USUAL_SCALE if scale is None else scale_bits(float(cast("float", scale))),
        *strides,
        *[_ZERO] * len(lead),
        *along,
    )
    read = [value for value in (q, k, v, mask) if value is not None]
    lowering.add(
        lowering.call(
            kernel,
            (*map(lowering.ref, (q, k, v)), lowering.ref(mask) if mask is not None else NOWHERE, lowering.ref(out)),
            params,
            reads=read,
            writes=[out],
            label=_label(anchor),
            ops=[op.name],
            work=multiplied(batch) * queries * keys * (features + values) // _MULTIPLY_ADDS_PER_NS,
        )
    )
