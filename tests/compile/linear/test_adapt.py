"""Adapting a whole model: what is decided, what stays the same, what is said, and the way back."""

from __future__ import annotations

import copy
import io
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from mlsysopt.compile.errors import NumericsError
from mlsysopt.compile.linear import adapt, plan_of, refresh, restore
from mlsysopt.compile.linear.module import AdaptiveLinear
from mlsysopt.compile.linear.swap import packs_of
from mlsysopt.core.errors import MissingExtra, UsageError


class Net(nn.Module):
    """Two layers that share a weight, one that is too small, and a product by a function call."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(384, 384)
        self.second = nn.Linear(384, 384)
        self.second.weight, self.second.bias = self.first.weight, self.first.bias
        self.small = nn.Linear(384, 8)
        self.w = nn.Parameter(torch.randn(8, 384) / 16)
        self.last = nn.Linear(384, 768, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.last(self.small(x) @ self.w + x)


@pytest.fixture
def net() -> Net:
    return Net().eval()


X = torch.randn(2, 5, 384, generator=torch.Generator().manual_seed(3))


def check(model: nn.Module, twin: nn.Module, x: Any = X) -> None:
    with torch.inference_mode():
        torch.testing.assert_close(model(x), twin(x), rtol=1e-4, atol=1e-4)


def test_in_place_and_exactly_back(net: Net, panels: Any) -> None:
    twin = copy.deepcopy(net)
    objects = [net, *net.modules(), *net.parameters()]
    assert adapt(net, prices=panels) is net
    assert [type(one) for one in (net.first, net.second, net.small, net.last)] == [
        AdaptiveLinear,
        AdaptiveLinear,
        nn.Linear,
        AdaptiveLinear,
    ]
    check(net, twin)
    assert all(a is b for a, b in zip(objects, [net, *net.modules(), *net.parameters()], strict=True))
    assert restore(net) is net
    for one, other in zip(net.modules(), twin.modules(), strict=True):
        assert type(one) is type(other) and one.__dict__.keys() == other.__dict__.keys()
    assert restore(net) is net
    with torch.inference_mode():
        assert torch.equal(net(X), twin(X))


def test_tied_layers_share_one_pack(net: Net, panels: Any) -> None:
    adapt(net, prices=panels)
    assert len(list(packs_of(net))) == 2
    with torch.no_grad():
        net.first.weight.mul_(2)
    twin = copy.deepcopy(net)
    restore(twin)
    for _ in range(3):
        check(net, twin)


def test_layers_with_tied_weights_and_biases_of_their_own(panels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlsysopt.compile.linear.packs import Packs

    model = nn.Sequential(nn.Linear(384, 384), nn.Linear(384, 384)).eval()
    model[1].weight = model[0].weight
    twin = copy.deepcopy(model)
    adapt(model, prices=panels, max_extra_memory="2x")
    assert plan_of(model).weights_bytes == 4 * 384 * 384, "they are there once"
    monkeypatch.setattr(Packs, "_make", None)  # nothing is packed again
    for _ in range(3):
        check(model, twin)


def test_a_tied_layer_of_another_class_keeps_its_forward(panels: Any) -> None:
    class Negative(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return -super().forward(x)

    model = nn.Sequential(nn.Linear(384, 384, bias=False), Negative(384, 384, bias=False)).eval()
    model[1].weight = model[0].weight
    twin = copy.deepcopy(model)
    adapt(model, prices=panels)
    assert [type(one).__name__ for one in model] == ["AdaptiveLinear", "Negative"]
    check(model, twin)


def test_the_plan_says_what_was_decided(net: Net, panels: Any) -> None:
    adapt(net, prices=panels, calibration=[X])
    plan = net.plan()  # type: ignore[operator]
    assert plan is plan_of(net)
    assert [(one.label, one.count, one.decision.variants) for one in plan.products] == [
        ("first", 1, ("panel.f32",)),
        ("last", 1, ("panel.f32",)),
    ]
    assert [one.reason for one in plan.uncovered] == ["smaller than 128x128", "reached by a function call"]
    assert sum(one.share for one in plan.uncovered) == pytest.approx(2 * 3072 / (2 * 384 * 384 + 2 * 3072 + 768 * 384))
    assert plan.extra_bytes <= plan.budget_bytes == plan.weights_bytes == 4 * (384 * 384 + 384 * 768)
    assert "2 of 2 products adapted, 2.00x" in str(plan)


def test_a_model_with_a_plan_of_its_own(panels: Any) -> None:
    class Planner(nn.Sequential):
        def plan(self) -> str:
            return "mine"

    model = adapt(Planner(nn.Linear(384, 384)).eval(), prices=panels)
    assert model.plan() == "mine" and plan_of(model).changed
    restore(model)
    with pytest.raises(UsageError, match=r"Planner was not adapted: call linear\.adapt"):
        plan_of(model)


def test_nothing_gained_is_nothing_changed(net: Net, nothing: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        adapt(net, prices=nothing)
    assert not plan_of(net).changed and type(net.first) is nn.Linear
    assert [one.getMessage() for one in caplog.records] == [
        "Net: nothing proven faster than aten.nt for any of 2 products; left as it was"
    ]


def test_no_products(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.ReLU())
    with caplog.at_level(logging.WARNING):
        assert adapt(model) is model
    assert caplog.records[0].getMessage() == "nothing to adapt in Sequential (0 linear products)"


def test_training_mode_is_said_once(net: Net, panels: Any, caplog: pytest.LogCaptureFixture) -> None:
    twin = copy.deepcopy(net)
    net.train()
    with caplog.at_level(logging.WARNING):
        adapt(net, prices=panels)
        assert torch.equal(net(X), twin(X))
        net(X)
        check(net.eval(), twin)
    assert [one.getMessage() for one in caplog.records] == ["Net is in training mode: it runs plain until eval()"]


def trained(model: nn.Module) -> nn.Module:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        model(X).square().mean().backward()
        optimizer.step()
    return model.eval()


def round_trip(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


CHANGES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "nothing": lambda model: model,
    "deepcopy": copy.deepcopy,
    "save and load": round_trip,
    "training": trained,
    "load_state_dict": lambda model: (
        model.load_state_dict({k: v + 0.01 for k, v in model.state_dict().items()}),
        model,
    )[1],
    "there and back": lambda model: model.double().float(),
    "adapt again": lambda model: adapt(model, policy="aten.nn"),
}


@pytest.mark.parametrize("memory", ["0x", "2x"])
@pytest.mark.parametrize("change", list(CHANGES))
def test_life_goes_on(net: Net, panels: Any, change: str, memory: str) -> None:
    twin = copy.deepcopy(net)
    adapt(net, prices=panels, max_extra_memory=memory)
    check(net, twin)
    changed, wanted = CHANGES[change](net), twin if change == "adapt again" else CHANGES[change](twin)
    for _ in range(3):
        check(changed, wanted)
    found, held = changed.state_dict(), wanted.state_dict()
    assert list(found) == list(held) and all(torch.equal(found[name], held[name]) for name in held)
    restore(changed)
    assert [type(one) for one in changed.modules()] == [type(one) for one in twin.modules()]


def test_refresh_packs_what_left_no_trace(net: Net, panels: Any) -> None:
    adapt(net, prices=panels)
    twin = copy.deepcopy(net)
    restore(twin)
    for model in (net, twin):
        model.last.weight.data.mul_(-1)
    assert refresh(net) is net
    check(net, twin)


def test_the_library_alone(net: Net, library: Any) -> None:
    twin = copy.deepcopy(net)
    adapt(net, prices=library, panel=False)
    assert plan_of(net).products[0].decision.variants == ("onednn.packed",)
    assert "no generated kernels: library variants only" in plan_of(net).lines
    check(net, twin)


def test_without_llvmlite(net: Net, monkeypatch: pytest.MonkeyPatch, library: Any) -> None:
    from mlsysopt.compile.codegen import target

    def missing(cap: str | None = None) -> None:
        raise MissingExtra.of("generating code", "compile")

    monkeypatch.setattr(target, "host_isa", missing)
    with pytest.raises(MissingExtra, match=r"pip install 'mlsysopt\[compile\]'; panel=False"):
        adapt(net)
    adapt(net, prices=library, panel=False)
    assert plan_of(net).changed


@pytest.mark.parametrize("policy", ["aten.nn", "aten.tn", "onednn.packed", "mkl.packed", "panel.f32", "paper"])
def test_one_variant_for_everything(net: Net, policy: str) -> None:
    twin = copy.deepcopy(net)
    adapt(net, policy=policy, max_extra_memory="64MiB")
    for rows in (1, 2, 9, 70):
        check(net, twin, torch.randn(rows, 384))
    assert {one.decision.variants for one in plan_of(net).products} == {(policy,)}
    assert plan_of(net).verdict() == "Net: 2 of 2 products adapted, as asked for"
    assert "1.00x" not in str(plan_of(net)), "nothing was timed"


def test_memory_runs_out(net: Net) -> None:
    adapt(net, policy="aten.nn", max_extra_memory="576KiB")
    plan = plan_of(net)
    assert [one.changed for one in plan.products] == [True, False]
    assert plan.extra_bytes == plan.budget_bytes == 384 * 384 * 4


def test_where_memory_ends_panels_take_the_place_of_the_original(net: Net, panels: Any) -> None:
    adapt(net, prices=panels, max_extra_memory="0x")
    plan = plan_of(net)
    # The weight of the first is tied: somebody else reads it.
    assert [(one.label, one.forms) for one in plan.products] == [("first", ("original",)), ("last", ("panel.f32",))]
    assert plan.extra_bytes == 0
    assert plan.products[1].decision.segments[0].gain == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp32"}, r"precision 'fp32'; did you mean f32\?"),
        ({"policy": "tabel"}, r"policy 'tabel'; did you mean table\?"),
        ({"policy": "panel"}, r"policy 'panel'; did you mean panel\."),
        ({"max_extra_memory": "-1x"}, r"memory budget '-1x'; allowed forms: \"0x\", \"1x\", \"512MiB\""),
        ({"max_extra_memory": "much"}, r"allowed forms: \"0x\", \"1x\", \"512MiB\""),
        ({"budget": "soon"}, "quantity 'soon'"),
        ({"likely_rows": [0]}, "rows must be at least 1, got 0"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"refine": "on"}, r"refine 'on'; .*background"),
        ({"refine": "background", "policy": "paper"}, "policy 'paper' has none that could change"),
    ],
)
def test_what_cannot_be_meant(net: Net, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        adapt(net, **options)
    assert type(net.first) is nn.Linear


def wrong_results(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlsysopt.compile.variants.onednn import OneDnn

    bind = OneDnn.bind

    def off(self: OneDnn, site: Any, packed: Any, bias: Any) -> Any:
        run = bind(self, site, packed, bias)
        return lambda x, residual=None: run(x, residual) * 1.001

    monkeypatch.setattr(OneDnn, "bind", off)


def test_a_wrong_kernel_is_barred(
    net: Net, library: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wrong_results(monkeypatch)
    library.factors["mkl.packed"] = 1.5
    twin = copy.deepcopy(net)
    with caplog.at_level(logging.WARNING):
        adapt(net, prices=library, max_extra_memory="64MiB")
    assert {one.decision.variants for one in plan_of(net).products} == {("mkl.packed",)}
    assert caplog.records[0].getMessage().startswith("onednn.packed on linear K=384 M=M N=384 f32 bias: error 0.00")
    check(net, twin)


def test_a_wrong_kernel_is_an_error_when_strict(net: Net, library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_results(monkeypatch)
    with pytest.raises(NumericsError, match=r"onednn\.packed on linear K=384 .*: error .*, allowed"):
        adapt(net, prices=library, strict=True)
    assert type(net.first) is nn.Linear


def with_dropout() -> nn.Sequential:
    return nn.Sequential(nn.Linear(384, 384), nn.BatchNorm1d(384), nn.Dropout(0.5)).train()


def test_a_batch_is_looked_at_as_if_the_model_were_evaluating(panels: Any) -> None:
    model = with_dropout()
    modes = [one.training for one in model.modules()]
    before = copy.deepcopy(model.state_dict())
    adapt(model, prices=panels, calibration=[X[0]])
    assert plan_of(model).changed, "dropout must not make it disagree with itself"
    assert [one.training for one in model.modules()] == modes
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


class Rounded(nn.Module):
    """Ends in something else than f32."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer, self.dtype = nn.Linear(384, 384), dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).to(self.dtype)


def test_outputs_of_other_types(panels: Any) -> None:
    model = adapt(Rounded(torch.bfloat16).eval(), prices=panels, calibration=[X])
    assert plan_of(model).changed
    whole = Rounded(torch.int64).eval()
    with pytest.raises(UsageError, match="without a tensor of floating-point numbers"):
        adapt(whole, prices=panels, calibration=[X])
    assert type(whole.layer) is nn.Linear


def test_an_interrupt_leaves_no_half_adapted_model(net: Net, panels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlsysopt.compile.linear.packs import Packs

    done: list[Packs] = []

    def stops(self: Packs, *_: Any) -> None:
        done.append(self)
        if len(done) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Packs, "pack", stops)
    with pytest.raises(KeyboardInterrupt):
        adapt(net, prices=panels)
    assert {type(one) for one in net.children()} == {nn.Linear}


def test_a_model_that_disagrees_is_taken_back(net: Net, panels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlsysopt.compile.linear import adapting

    monkeypatch.setattr(adapting, "_agrees", lambda *_: False)
    adapt(net, prices=panels, calibration=[X])
    assert type(net.first) is nn.Linear and not plan_of(net).changed
    assert "the adapted model did not agree with the plain one, and was taken back" in plan_of(net).lines


def test_other_threads_are_not_measured(net: Net, tmp_path: Any) -> None:
    from mlsysopt.compile.variants.machine import MachineProfile

    adapt(net, threads=3, profile=MachineProfile(path=None), budget="0s")
    assert "not measured at 3 threads: times are those of a model" in plan_of(net).lines


def test_conv1d_competes_with_what_it_does_today(panels: Any, nothing: Any) -> None:
    from transformers.pytorch_utils import Conv1D

    model = nn.Sequential(Conv1D(512, 384)).eval()
    twin = copy.deepcopy(model)
    adapt(model, prices=panels, max_extra_memory="2x")
    assert plan_of(model).products[0].decision.variants == ("panel.f32",)
    check(model, twin)
    adapt(model, prices=nothing)
    assert type(model[0]) is Conv1D and not plan_of(model).changed


def test_lower_precision_within_the_error(net: Net, panels: Any) -> None:
    panels.factors |= {"panel.bf16w": 0.5, "panel.int8w": 0.25}
    twin = copy.deepcopy(net)
    adapt(net, prices=panels, precision="bf16", error=2e-2, calibration=[X, X + 1])
    plan = plan_of(net)
    assert plan.precision.lowered == 2 and not plan.precision.refused
    assert {one.decision.variants for one in plan.products} == {("panel.bf16w",)}
    with torch.inference_mode():
        apart = (net(X) - twin(X)).abs().max() / twin(X).square().mean().sqrt()
    assert 0 < float(apart) < 2e-2


@pytest.mark.parametrize("why", ["training", "threads", "other rows"])
def test_the_gate_sees_lower_precision_whatever_would_keep_a_call_plain(net: Net, panels: Any, why: str) -> None:
    class FewRows(type(panels)):  # type: ignore[misc]
        def quote(self, site: Any, variant: Any) -> Any:
            narrow = variant.name == "panel.int8w" and (why != "other rows" or site.number("M") <= 4)
            self.factors["panel.int8w"] = 0.25 if narrow else 5.0
            return super().quote(site, variant)

    net.train(why == "training")
    adapt(
        net,
        prices=FewRows(dict(panels.factors)),
        precision="int8w",
        error=1e-4,
        calibration=[X],  # ten rows
        max_extra_memory="2x",
        threads=2 if why == "threads" else 1,
    )
    plan = plan_of(net)
    assert plan.precision.refused and plan.precision.errors is not None and plan.precision.errors.largest > 1e-3
    assert torch.get_num_threads() == 1


def test_a_forced_variant_that_rounds_is_not_called_f32(net: Net) -> None:
    adapt(net, policy="panel.int8w", calibration=[X], max_extra_memory="2x")
    assert plan_of(net).changed, "an error is what was asked for"
    assert plan_of(net).precision.text() == "panel.int8w: 2 of 2 modules lowered, their error was not looked at"
    adapt(net, policy="panel.int8w", calibration=[X], max_extra_memory="2x", error=1e-4)
    assert not plan_of(net).changed


def test_lower_precision_is_refused(net: Net, panels: Any) -> None:
    panels.factors |= {"panel.bf16w": 0.5}
    adapt(net, prices=panels, precision="bf16", error=1e-7, calibration=[X])
    plan = plan_of(net)
    assert plan.precision.refused and {one.decision.variants for one in plan.products} == {("panel.f32",)}
    assert plan.precision.text().startswith("f32: bf16 refused, error max")


def test_the_lowest_precision_by_itself(net: Net, panels: Any) -> None:
    panels.factors |= {"panel.bf16w": 0.5, "panel.int8w": 0.25}
    adapt(net, prices=panels, precision="auto", error=0.1, calibration=[X, X * 2])
    assert plan_of(net).precision.lowered >= 1


def test_inputs_that_nobody_knows(panels: Any) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(384, 384)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.layer(x) + y

    with pytest.raises(UsageError, match="the inputs of Pair are not known: give batches"):
        adapt(Pair().eval(), prices=panels, precision="bf16")


def test_random_inputs_are_said(panels: Any) -> None:
    panels.factors |= {"panel.bf16w": 0.5}
    model = adapt(nn.Sequential(nn.Linear(384, 384)).eval(), prices=panels, precision="bf16")
    assert plan_of(model).precision.text().endswith("(random inputs)")


def test_a_small_bert(panels: Any) -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=100, hidden_size=144, num_hidden_layers=2, num_attention_heads=4, intermediate_size=288
    )
    model = BertModel(config).eval()
    twin = copy.deepcopy(model)
    adapt(model, prices=panels)
    ids = torch.randint(0, 100, (2, 9))
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, 6:] = 0
    with torch.inference_mode():
        found = model(ids, attention_mask=mask).last_hidden_state
        wanted = twin(ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert plan_of(model).products[0].label == "query, key, value, dense"
