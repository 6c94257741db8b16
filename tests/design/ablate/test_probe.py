"""The probe sees calls, shapes, axes of the batch, and as what each output is consumed."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlsysopt.design.ablate.probe import leaves, probe, rebuilt, structure_of
from mlsysopt.testing.ablation_nets import NETS, Tagger, TransformerNet


class One(nn.Module):
    """A layer `f` in an expression, between a stem and a head."""

    def __init__(self, use: Any) -> None:
        super().__init__()
        self.stem, self.f, self.g, self.head = (nn.Linear(6, 6) for _ in range(4))
        self.drop = nn.Dropout(0.5)
        self.bias = nn.Parameter(torch.ones(6))
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.use(self, self.stem(x)))


def role(use: Any) -> Any:
    seen = probe(One(use), torch.randn(8, 6), second_batch=torch.randn(5, 6))
    return seen.seen["f"].outputs[0].role


@pytest.mark.parametrize(
    ("use", "wanted"),
    [
        (lambda m, x: x + m.f(x), "add"),
        (lambda m, x: x - m.f(x), "add"),
        (lambda m, x: torch.add(x, m.f(x)), "add"),
        (lambda m, x: x + m.drop(m.f(x)), "add"),
        (lambda m, x: x + F.relu(m.f(x)), "add"),
        (lambda m, x: x + 0.5 * m.f(x), "add"),
        (lambda m, x: x + m.f(x) / 2, "add"),
        (lambda m, x: x + m.bias * m.f(x), "add"),
        (lambda m, x: x + m.f(x).reshape(-1, 2, 3)[:].reshape(x.shape), "add"),
        (lambda m, x: x + m.f(x) if m.f(x).shape[0] > 0 else x, "add"),
        (lambda m, x: x + (m.f(x) + m.bias), "add"),
        (lambda m, x: x.new_zeros(x.shape) + m.f(x) + m.g(x), "add"),
        (lambda m, x: torch.cat([x[:, :3], m.f(x)[:, :3]], 1), "add"),
        (lambda m, x: x * m.f(x), "mul"),
        (lambda m, x: x * torch.sigmoid(m.f(x)), "chain"),
        (lambda m, x: x * (1 + m.f(x)), "add"),
        (lambda m, x: m.g(m.f(x)), "chain"),
        (lambda m, x: F.gelu(m.f(x)), "chain"),
        (lambda m, x: torch.tanh(m.f(x)) @ torch.eye(6), "chain"),
        (lambda m, x: m.f(x) + m.bias, "chain"),
        (lambda m, x: m.f(x) * 2.0, "chain"),
        (lambda m, x: torch.stack([m.f(x), m.f(x)]).mean(0), "chain"),
        (lambda m, x: x / m.f(x), "mul"),
        (lambda m, x: (lambda y: y + m.g(y))(m.f(x)), "chain"),
        (lambda m, x: m.f(x).detach() * 0 + x, "add"),
    ],
)
def test_roles(use: Any, wanted: str) -> None:
    assert role(use) == wanted


def test_a_sum_written_in_place_is_not_taken_for_what_it_was() -> None:
    def use(m: Any, x: Tensor) -> Tensor:
        y = m.f(x)
        y += x
        return m.g(y)

    assert role(use) == "add"


def test_what_is_written_into_a_buffer_goes_on() -> None:
    def use(m: Any, x: Tensor) -> Tensor:
        held = torch.zeros(x.shape)
        held[:, :] = m.f(x)
        return x + held

    assert role(use) == "add"


def test_what_nobody_uses_has_no_role() -> None:
    assert role(lambda m, x: (m.f(x), x)[1]) is None


@pytest.mark.parametrize(
    "end", [lambda y: y, lambda y: F.log_softmax(y, -1), lambda y: y.mean(1), lambda y: y.flatten().sigmoid()]
)
def test_a_head_is_known_behind_what_follows_it(end: Any) -> None:
    class Ends(One):
        def forward(self, x: Tensor) -> Tensor:
            return end(super().forward(x))

    seen = probe(Ends(lambda m, x: m.f(x)), torch.randn(8, 6), second_batch=torch.randn(5, 6)).seen
    assert seen["head"].gives_output
    assert not seen["f"].gives_output


def test_axes_that_follow_the_batch() -> None:
    seen = probe(Tagger(), NETS["tagger"].batch(8), second_batch=NETS["tagger"].batch(5)).seen
    out, state = seen["both"].outputs
    assert (out.batch_axes, state.batch_axes) == ((0,), (1,))
    assert out.shape == (8, 9, 24)
    assert [leaf.role for leaf in seen["forth"].outputs] == ["chain", "chain"]
    assert seen["both"].outputs[1].role is None


def test_calls_and_call_sites() -> None:
    seen = probe(One(lambda m, x: m.f(m.f(x))), torch.randn(4, 6)).seen
    assert seen["f"].calls == 2
    assert seen["f"].sites[0].startswith("test_probe.py:")


def test_fused_layers_do_not_hide_their_modules() -> None:
    seen = probe(TransformerNet().eval(), NETS["transformer"].batch(4), second_batch=NETS["transformer"].batch(3))
    assert "encoder.layers.0.linear1" in seen.seen
    assert seen.uncalled == {"encoder.layers", *(f"encoder.layers.{i}.self_attn.out_proj" for i in range(2))}
    assert torch.backends.mha.get_fastpath_enabled()


def test_an_addition_to_its_own_input_is_told_from_the_end_of_a_branch() -> None:
    batches = torch.randn(8, 6), torch.randn(5, 6)
    for use, beside in ((lambda m, x: x + m.f(x), True), (lambda m, x: x + m.f(m.g(x)), False)):
        assert probe(One(use), batches[0], second_batch=batches[1]).seen["f"].beside_input is beside


def test_the_model_is_left_as_it_is() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5)).eval()
    state = torch.get_rng_state()
    probe(model, torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
    assert not model.training
    assert not model[0]._forward_hooks
    assert int(model[0].num_batches_tracked) == 0
    assert torch.equal(torch.get_rng_state(), state)


class Pair(NamedTuple):
    """Two."""

    left: Any
    right: Any


@dataclass
class Given:
    """A named output."""

    logits: Any
    hidden: Any = None


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(2),
        (torch.ones(2), None),
        [torch.ones(1), (torch.zeros(3), {"a": torch.ones(4), "n": 3})],
        Pair(torch.ones(2), "word"),
        Given(torch.ones(2)),
    ],
)
def test_structures_are_rebuilt_as_they_were(value: Any) -> None:
    again = rebuilt(pickle.loads(pickle.dumps(structure_of(value))), leaves(value))
    assert type(again) is type(value)
    assert [id(tensor) for tensor in leaves(again)] == [id(tensor) for tensor in leaves(value)]
    assert str(again) == str(value)


def test_packed_sequences_and_outputs_of_transformers() -> None:
    from transformers.modeling_outputs import BaseModelOutput

    packed = nn.utils.rnn.pack_padded_sequence(torch.ones(2, 3, 4), torch.tensor([3, 2]), batch_first=True)
    assert type(rebuilt(structure_of(packed), leaves(packed))) is type(packed)
    output = BaseModelOutput(last_hidden_state=torch.ones(2))
    assert torch.equal(rebuilt(structure_of(output), leaves(output)).last_hidden_state, torch.ones(2))


def test_a_probe_can_be_sent_to_a_worker() -> None:
    seen = probe(Tagger(), NETS["tagger"].batch(8), second_batch=NETS["tagger"].batch(5))
    assert pickle.loads(pickle.dumps(seen)) == seen
