"""A part is out, and proven to be out, or it is refused with a reason and a place in the source."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import cloudpickle
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlsysopt.core.errors import UsageError
from mlsysopt.design.ablate.probe import Probe, call_model, probe
from mlsysopt.design.ablate.proofs import Proof, Subject
from mlsysopt.design.ablate.select import Part, match
from mlsysopt.design.ablate.surgery import Refused, prove, remove
from mlsysopt.testing.ablation import AblationContract
from mlsysopt.testing.ablation_nets import NETS, ResidualNet, TransformerNet


class TestTransformer(AblationContract):
    make_model = staticmethod(NETS["transformer"].make)
    batch = staticmethod(NETS["transformer"].batch)
    other_batch = staticmethod(NETS["transformer"].longer)


class TestTagger(AblationContract):
    make_model = staticmethod(NETS["tagger"].make)
    batch = staticmethod(NETS["tagger"].batch)
    other_batch = staticmethod(NETS["tagger"].longer)


class TestMixer(AblationContract):
    make_model = staticmethod(NETS["mixer"].make)
    batch = staticmethod(NETS["mixer"].batch)


class TestGraph(AblationContract):
    make_model = staticmethod(NETS["graph"].make)
    batch = staticmethod(NETS["graph"].batch)


class TestResidual(AblationContract):
    hows = ("auto", "matched")
    make_model = staticmethod(NETS["residual"].make)
    batch = staticmethod(NETS["residual"].batch)
    other_batch = staticmethod(NETS["residual"].longer)


class Base(nn.Module):
    """A stem and a head; what lies between is the subclass's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def between(self, x: Tensor) -> Tensor:
        return self.mid(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(self.stem(x)))


def proof(make: Any, path: str = "mid", how: str = "auto", batch: Any = None, second: Any = None) -> Proof:
    first = torch.randn(8, 6, generator=torch.Generator().manual_seed(1)) if batch is None else batch
    model = make()
    part = match(model, path)[0]
    return prove(make, part, how=how, batch=first, second_batch=first[:5] if second is None else second)


def test_a_proof_says_what_the_removal_does() -> None:
    found = proof(Base)
    assert found.ok
    assert found.removal is not None
    assert found.removal.adapters == ("mid: identity",)
    assert found.parameters == (42 + 42 + 21, 42 + 21)
    assert found.macs == (8 * (36 + 36 + 18), 8 * (36 + 18))
    assert proof(Base, how="linear").macs[1] == found.macs[0]
    assert found.collateral == ()


COLLATERAL = {f"{name}.{part}" for name in ("q_proj", "k_proj") for part in ("weight", "bias")}


def test_collateral_is_named() -> None:
    class Keys(Base):
        def __init__(self) -> None:
            super().__init__()
            self.q_proj, self.k_proj = nn.Linear(6, 6), nn.Linear(6, 6)

        def between(self, x: Tensor) -> Tensor:
            return x + self.mid(F.softmax(self.q_proj(x) @ self.k_proj(x).T, -1) @ x)

    found = proof(Keys)
    assert found.ok
    # The bias of the keys shifts all scores of a query alike and cancels: its gradient is zero, but for rounding.
    assert {"q_proj.weight", "q_proj.bias", "k_proj.weight"} <= set(found.collateral) <= COLLATERAL


def test_a_head_is_refused_with_its_line() -> None:
    refusal = proof(Base, "head").refusal
    assert refusal is not None
    assert refusal.reason == "head gives the model's output: without it there is none"
    assert refusal.where.startswith("test_surgery.py:")


def test_a_shared_instance_is_one_part_and_its_calls_count_together() -> None:
    class Twice(Base):
        def __init__(self) -> None:
            super().__init__()
            self.again = self.mid

        def between(self, x: Tensor) -> Tensor:
            return self.again(torch.tanh(self.mid(x)))

    found = proof(Twice)
    assert found.ok
    assert found.removal is not None
    assert [one.path for one in found.removal.replaced] == ["mid", "again"]
    model = Twice()
    remove(model, match(model, "again")[0], probe=probe(Twice(), torch.randn(4, 6)))
    assert model.mid is model.again


class Reads(Base):
    """Uses the weight of a layer without calling it."""

    def between(self, x: Tensor) -> Tensor:
        return F.linear(x, self.mid.weight)


class Calls(Base):
    """Calls a layer, and reads its weight as well."""

    def between(self, x: Tensor) -> Tensor:
        return self.mid(x) + self.mid.weight.sum()


class Inside(Base):
    """Reaches into a part from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.mid = nn.Sequential(nn.Linear(6, 6), nn.Tanh())

    def between(self, x: Tensor) -> Tensor:
        return self.mid(x) + self.mid[0](x)


class Method(Base):
    """Calls a method of its own on a layer."""

    class Layer(nn.Linear):
        def norm(self) -> Tensor:
            return self.weight.norm()

    def __init__(self) -> None:
        super().__init__()
        self.mid = self.Layer(6, 6)

    def between(self, x: Tensor) -> Tensor:
        return self.mid(x) + self.mid.norm()


@pytest.mark.parametrize("make", [Reads, Calls, Inside, Method])
def test_use_behind_its_back_is_refused_with_file_and_line(make: Any) -> None:
    found = proof(make)
    assert not found.ok
    assert found.refusal is not None
    assert found.refusal.where.startswith("test_surgery.py:")


def test_the_projection_inside_attention_is_refused() -> None:
    net = NETS["transformer"]
    found = proof(net.make, "encoder.layers.0.self_attn.out_proj", batch=net.batch(8))
    assert found.refusal is not None
    assert "its weight is read without calling it" in found.refusal.reason
    assert found.refusal.where.startswith("activation.py:")
    assert "ablation_nets.py:" in found.refusal.where


def test_a_module_that_is_never_called_is_an_error() -> None:
    class Idle(Base):
        def between(self, x: Tensor) -> Tensor:
            return x

    with pytest.raises(UsageError, match=r"mid \(Linear\) is registered, but never called with this input") as caught:
        proof(Idle)
    assert caught.value.exit_code == 2


def test_a_sequence_that_is_only_iterated_stands_for_its_layers() -> None:
    class Walks(Base):
        def __init__(self) -> None:
            super().__init__()
            self.mid = nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.Tanh(), nn.Linear(6, 6)))

        def between(self, x: Tensor) -> Tensor:
            for layer in self.mid:
                x = x + layer(x)
            return x

    found = proof(Walks)
    assert found.ok
    assert found.removal is not None
    assert [one.path for one in found.removal.replaced] == ["mid.0", "mid.1"]


def test_a_tied_weight_stays_and_so_the_removal_fails() -> None:
    class Tied(Base):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Linear(6, 6)
            self.other.weight = self.mid.weight

        def between(self, x: Tensor) -> Tensor:
            return self.other(torch.tanh(self.mid(x)))

    found = proof(Tied)
    assert not found.ok
    assert [str(one) for one in found.findings] == [
        "its parameter is still in the model as other.weight: it is shared with another part"
    ]


def test_a_branch_that_starts_as_zero_is_a_warning_only() -> None:
    class Zero(Base):
        def between(self, x: Tensor) -> Tensor:
            return x + self.scale * self.mid(x)

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(1))

    found = proof(Zero)
    assert found.ok
    assert [one.proof for one in found.findings] == [4]


def test_another_way_through_the_model_is_a_failure() -> None:
    class Chooses(Base):
        def between(self, x: Tensor) -> Tensor:
            y = self.mid(x)
            return y if y.abs().sum() > 0 else self.mid(y)

    found = proof(Chooses, how="neutral")
    assert not found.ok
    assert "was called 2 times, the original 1" in str(found.findings[0])


def test_what_no_longer_runs_is_refused_with_the_error_and_its_line() -> None:
    class Insists(Base):
        def between(self, x: Tensor) -> Tensor:
            y = self.mid(x)
            if bool((y == 0).all()):
                raise ValueError("all zero")
            return y

    found = proof(Insists, how="neutral")
    assert found.refusal is not None
    assert found.refusal.reason == "the model does not run without it: ValueError: all zero"
    assert found.refusal.where.startswith("test_surgery.py:")


def test_another_shape_or_structure_fails() -> None:
    class Grows(Base):
        def forward(self, x: Tensor) -> Tensor:
            y = self.head(self.mid(self.stem(x)))
            return y if bool(self.mid(self.stem(x)).abs().sum() > 0) else y[:1]

    found = proof(Grows, how="neutral")
    assert [one.proof for one in found.findings if one.failed] == [3]
    assert "the model gives 1 x 3 without it, 8 x 3 with it" in str(found.findings[0])


def test_what_is_not_finite_fails() -> None:
    class Divides(Base):
        def between(self, x: Tensor) -> Tensor:
            return x / self.mid(x).abs().sum()

    found = proof(Divides, how="neutral")
    assert [one.proof for one in found.findings if one.failed] == [5]


def test_torchscript_is_refused() -> None:
    class Scripted(Base):
        def __init__(self) -> None:
            super().__init__()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.mid = torch.jit.trace(nn.Sequential(nn.Linear(6, 6), nn.Tanh()), torch.ones(2, 6))

    for path in ("mid", "mid.0"):
        found = proof(Scripted, path)
        assert found.refusal is not None
        assert "is TorchScript" in found.refusal.reason
    assert proof(Scripted, "stem").ok


@pytest.mark.slow
def test_compiled_models_are_unwrapped() -> None:
    def make() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.compile(Base())

    assert proof(make).ok


def test_unknown_ways_and_paths() -> None:
    model, seen = Base(), probe(Base(), torch.randn(4, 6))
    with pytest.raises(UsageError, match=r"replace='idenity': did you mean identity\?"):
        remove(model, Part("mid", ("mid",)), how="idenity", probe=seen)
    with pytest.raises(UsageError, match=r"no module 'midd'; did you mean mid\?"):
        remove(model, Part("midd", ("midd",)), probe=seen)


def test_a_batch_that_does_not_fit_is_an_error_that_says_so() -> None:
    with pytest.raises(UsageError, match="the model does not run with its batch") as caught:
        Subject(Base, torch.randn(4, 7))
    assert "pass batch=" in str(caught.value)


def test_a_model_that_insists_on_single_precision_is_proven_in_it() -> None:
    class Single(Base):
        def between(self, x: Tensor) -> Tensor:
            return self.mid(x) + torch.ones(6, dtype=torch.float32) @ torch.eye(6)[:, :6].to(x) @ torch.eye(6)

    assert proof(Single).ok


class Named(Base):
    """Takes and gives mappings; draws numbers."""

    def forward(self, left: Tensor, right: Tensor | None = None) -> dict[str, Any]:
        x = self.stem(left) + F.dropout(torch.zeros_like(left) if right is None else right)
        hidden = self.mid(x)
        return {"logits": self.head(hidden), "hidden": [hidden.sum()], "note": None}


def test_mappings_in_and_out() -> None:
    batch = {"left": torch.randn(8, 6), "right": torch.randn(8, 6)}
    second = {key: value[:5] for key, value in batch.items()}
    found = prove(Named, Part("stem", ("stem",)), batch=batch, second_batch=second)
    assert found.ok
    assert found.removal is not None
    assert found.removal.adapters == ("stem: neutral",)


def test_eval_mode_and_buffers_are_as_they_were() -> None:
    net = NETS["residual"]
    subject = Subject(net.make, net.batch(4), second_batch=net.batch(3))
    before = copy.deepcopy(subject.model.state_dict())
    for path in ("blocks.0", "norm", "drop"):
        assert subject.prove(Part(path, (path,))).ok
    assert all(torch.equal(value, subject.model.state_dict()[name]) for name, value in before.items())


def test_pairs_with_one_seed_start_from_the_same_weights() -> None:
    torch.manual_seed(3)
    base = ResidualNet()
    torch.manual_seed(3)
    model = ResidualNet()
    seen = probe(base, NETS["residual"].batch(4))
    remove(model, match(model, "blocks.1")[0], probe=seen, how="matched")
    same = [name for name, one in model.named_parameters() if not name.startswith("blocks.1")]
    assert len(same) > 10
    assert all(torch.equal(model.get_parameter(name), base.get_parameter(name)) for name in same)


def _trained(seen: Probe, how: str) -> tuple[float, bytes]:
    torch.manual_seed(0)
    model = TransformerNet()
    remove(model, match(model, "encoder.layers.0.self_attn")[0], how=how, probe=seen)
    loss = call_model(model, NETS["transformer"].batch(4)).square().mean()
    loss.backward()
    return float(loss.detach()), cloudpickle.dumps(model)


def test_probes_and_models_travel_to_a_worker_and_back() -> None:
    from loky import get_reusable_executor

    hows = ("auto", "linear", "matched")
    seen = probe(TransformerNet(), NETS["transformer"].batch(8), second_batch=NETS["transformer"].batch(5))
    pool = get_reusable_executor(max_workers=1, timeout=20)
    try:
        found = dict(zip(hows, pool.map(_trained, [seen] * 3, hows), strict=True))
    finally:
        pool.shutdown(wait=True)
    for how, (loss, model) in found.items():
        assert loss == pytest.approx(_trained(seen, how)[0], rel=1e-5)
        # In evaluation mode torch would like to fuse the layer, and must not.
        assert call_model(cloudpickle.loads(model).eval(), NETS["transformer"].batch(2)).shape == (2, 3)


@pytest.mark.parametrize("path", ["linear1", "linear2", "norm1", "dropout", "self_attn"])
def test_an_encoder_layer_without_a_part_does_not_fuse(path: str) -> None:
    model = TransformerNet()
    seen = probe(model, NETS["transformer"].batch(4))
    remove(model, match(model, f"encoder.layers.0.{path}")[0], probe=seen)
    assert torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad():
        assert model.eval()(NETS["transformer"].batch(2)).shape == (2, 3)


def test_a_fused_path_of_its_own_that_only_evaluation_takes_is_refused() -> None:
    class Fused(Base):
        def between(self, x: Tensor) -> Tensor:
            return self.mid(x) if self.training else F.linear(x, self.mid.weight, self.mid.bias)

    found = proof(Fused)
    assert found.refusal is not None
    assert "its weight is read without calling it" in found.refusal.reason


def test_refusals_travel() -> None:
    again = cloudpickle.loads(cloudpickle.dumps(Refused("why", "file.py:3")))
    assert (again.reason, again.where, str(again)) == ("why", "file.py:3", "why (file.py:3)")
