"""Well-known models mean after import what they meant before."""

from __future__ import annotations

import collections

import pytest

from mlsysopt.graph.interpreter import interpret, relative_error
from tests.graph.importers.models import MODELS, graph_of, truth

NAMES = [pytest.param(name, marks=pytest.mark.slow if model.slow else ()) for name, model in MODELS.items()]


@pytest.mark.parametrize("name", NAMES)
def test_the_program_equals_the_model_at_five_sizes(name: str) -> None:
    model, graph = MODELS[name], graph_of(name)
    assert graph.verify() is None
    assert len(model.at) == 5
    for seed, sizes in enumerate(model.at):
        tensors = model.tensors(sizes, seed=seed)
        expected = truth(name, tensors)
        found = interpret(graph, **{label: tensor.numpy() for label, tensor in tensors.items()})
        assert found.keys() == expected.keys()
        for label, array in expected.items():
            assert found[label].shape == array.shape
            assert relative_error(found[label], array) < 1e-5, (label, sizes)


@pytest.mark.parametrize("name", [param.values[0] for param in NAMES if not MODELS[str(param.values[0])].slow])
def test_composites_survive_and_nothing_is_opaque(name: str) -> None:
    kinds = collections.Counter(op.kind for op in graph_of(name).ops)
    assert "opaque.aten" not in kinds
    expected = {
        "bert": {"linear": 13, "layer_norm": 5, "attention": 2, "gelu": 2, "embedding": 3, "tanh": 1},
        "resnet18": {"conv": 20, "batch_norm": 20, "relu": 17, "max_pool": 1, "add": 8},
        "resnet50": {"conv": 52, "batch_norm": 52, "relu": 49, "max_pool": 1, "add": 16},
        "regnet": {"conv": 35, "batch_norm": 23, "sigmoid": 6, "mul": 6},
        "mobilenet_v2": {"conv": 52, "batch_norm": 52, "clip": 35},
        "inception": {"conv": 20, "concat": 3, "avg_pool": 2, "linear": 1},
        "squeezenet": {"conv": 11, "concat": 3, "max_pool": 2},
        "decoder": {"linear": 6, "attention": 1, "silu": 1},
        "training_step": {"linear": 2, "log_softmax": 1, "gather_elements": 1},
    }[name]
    assert {kind: kinds[kind] for kind in expected} == expected


def test_a_mask_made_from_positions_is_a_view_and_no_lookup() -> None:
    # The model builds its mask by indexing with two `arange`; as data that would hide the shape of everything after.
    graph = graph_of("bert")
    assert not [op for op in graph.ops if op.kind in ("gather", "size")]
    masks = [op.operands[3].type for op in graph.ops if op.kind == "attention"]
    assert [str(one) for one in masks] == ["bool[B, 1, S, S]"] * 2


def test_the_training_step_names_a_gradient_per_parameter() -> None:
    graph = graph_of("training_step")
    names = [value.name for value in graph.outputs]
    assert names == ["loss", "grad_layers_0_weight", "grad_layers_0_bias", "grad_layers_2_weight", "grad_layers_2_bias"]
    by_label = {constant.label: constant.type for constant in graph.constants}
    for value in graph.outputs[1:]:
        (label,) = (one for one in by_label if f"grad_{one.replace('.', '_')}" == value.name)
        assert value.type == by_label[label]
