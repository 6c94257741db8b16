"""A plan as JSON and back: what an artefact keeps of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlsysopt.compile.codegen.steps import Call, CallOut, Choice, Condition, Flow, Place
from mlsysopt.compile.dynamic.plan import Outside, Plan, Product, Tensor, Weight
from mlsysopt.compile.variants.decision import Decision, Segment
from mlsysopt.graph.symbolic import Dim

__all__ = ["plan_from", "plan_json"]

Json = Any


def plan_json(plan: Plan) -> Json:
    """Return a plan as lists, dicts, texts and numbers; sizes are texts that `Dim.parse` reads."""
    flow = plan.flow
    return {
        "name": plan.name,
        "symbols": list(flow.symbols),
        "steps": [_step(step) for step in flow.steps],
        "slots": [str(size) for size in flow.slots],
        "counts": [flow.inputs, flow.outputs, flow.constants, flow.threads],
        "weights": [_weight(one) for one in plan.weights],
        "outsides": [
            {
                "op": one.op,
                "operands": [_tensor(tensor) for tensor in one.operands],
                "results": [_tensor(tensor) for tensor in one.results],
                "why": one.why,
                "product": _product(one.product),
            }
            for one in plan.outsides
        ],
        "members": [list(names) for names in plan.members],
        "decisions": {
            name: [[getattr(one, field) for field in Segment.__slots__] for one in decision.segments]
            for name, decision in plan.decisions.items()
        },
        "missed": list(plan.missed),
        "values": {name: _tensor(tensor) for name, tensor in plan.values.items()},
    }


def plan_from(content: Json) -> Plan:
    """Return the plan of a JSON value.

    Raises:
        KeyError, TypeError, ValueError: it is damaged.
    """
    size = _Sizes()
    inputs, outputs, constants, threads = content["counts"]
    flow = Flow(
        tuple(content["symbols"]),
        tuple(_step_from(one, size) for one in content["steps"]),
        size.all(content["slots"]),
        inputs,
        outputs,
        constants,
        threads,
    )
    return Plan(
        content["name"],
        flow,
        tuple(map(_weight_from, content["weights"])),
        tuple(
            Outside(
                one["op"],
                tuple(_tensor_from(tensor, size) for tensor in one["operands"]),
                tuple(_tensor_from(tensor, size) for tensor in one["results"]),
                one["why"],
                _product_from(one["product"]),
            )
            for one in content["outsides"]
        ),
        tuple(tuple(names) for names in content["members"]),
        {name: Decision(tuple(Segment(*one) for one in rows)) for name, rows in content["decisions"].items()},
        tuple(content["missed"]),
        {name: _tensor_from(tensor, size) for name, tensor in content["values"].items()},
    )


class _Sizes:
    """Reads sizes, each text once."""

    def __init__(self) -> None:
        self._known: dict[str, Dim] = {}

    def __call__(self, text: str) -> Dim:
        found = self._known.get(text)
        if found is None:
            found = self._known[text] = Dim.parse(text)
        return found

    def all(self, texts: Sequence[str]) -> tuple[Dim, ...]:
        return tuple(self(text) for text in texts)


def _weight(weight: Weight) -> Json:
    return [weight.constant, weight.form, weight.part, weight.matrix]


def _weight_from(content: Json) -> Weight:
    name, form, part, matrix = content
    return Weight(name, form, part, tuple(matrix) if matrix else None)


def _product(product: Product | None) -> Json:
    if product is None:
        return None
    return [product.variant, _weight(product.weight), product.bias, product.activation, product.residual]


def _product_from(content: Json) -> Product | None:
    if content is None:
        return None
    variant, weight, *rest = content
    return Product(variant, _weight_from(weight), *rest)


def _place(place: Place) -> Json:
    return [place.kind, place.index, str(place.offset)]


def _place_from(content: Json, size: _Sizes) -> Place:
    kind, index, offset = content
    return Place(kind, index, size(offset))


def _tensor(tensor: Tensor) -> Json:
    return [_place(tensor.place), tensor.dtype, list(map(str, tensor.shape)), list(map(str, tensor.strides))]


def _tensor_from(content: Json, size: _Sizes) -> Tensor:
    place, dtype, shape, strides = content
    return Tensor(_place_from(place, size), dtype, size.all(shape), size.all(strides))


def _step(step: Call | CallOut | Choice) -> Json:
    if isinstance(step, Choice):
        cases = [
            [[[str(one.left), one.relation, str(one.right)] for one in conditions], [_step(call) for call in calls]]
            for conditions, calls in step.cases
        ]
        return {"choice": cases}
    if isinstance(step, CallOut):
        return {
            "python": step.function,
            "reads": [_place(one) for one in step.reads],
            "writes": [_place(one) for one in step.writes],
            "label": step.label,
            "ops": list(step.ops),
        }
    return {
        "call": step.kernel,
        "buffers": [_place(one) for one in step.buffers],
        "params": [str(one) for one in step.params],
        "units": str(step.units),
        "scratch": str(step.scratch_bytes),
        "work": str(step.work),
        "label": step.label,
        "ops": list(step.ops),
    }


def _step_from(content: Mapping[str, Json], size: _Sizes) -> Any:
    def places(name: str) -> tuple[Place, ...]:
        return tuple(_place_from(one, size) for one in content[name])

    if "choice" in content:
        return Choice(
            tuple(
                (
                    tuple(Condition(size(left), relation, size(right)) for left, relation, right in conditions),
                    tuple(_step_from(call, size) for call in calls),
                )
                for conditions, calls in content["choice"]
            )
        )
    label, ops = content["label"], tuple(content["ops"])
    if "python" in content:
        return CallOut(content["python"], places("reads"), places("writes"), label, ops)
    return Call(
        content["call"],
        places("buffers"),
        size.all(content["params"]),
        size(content["units"]),
        size(content["scratch"]),
        size(content["work"]),
        label,
        ops,
    )
