"""An adapted layer gives what `F.linear` gives, whatever happens to it and around it."""

from __future__ import annotations

import copy
import io
import logging
import pickle
import threading
from collections.abc import Callable

import pytest
import torch
from torch import nn

from mlsysopt.compile.linear.module import AdaptiveLinear, put_back, take_over
from mlsysopt.compile.linear.packs import Packs
from mlsysopt.compile.variants.decision import Decision

N, K = 160, 192
TABLE = Decision.of([(1, "panel.f32"), (33, "aten.nt"), (65, "onednn.packed")])


def adapted(decision: Decision = TABLE, *, bias: bool = True, threads: int = 1) -> AdaptiveLinear:
    layer = nn.Linear(K, N, bias=bias).eval()
    packs = Packs(decision, N, K, threads=threads)
    take_over(layer, packs)
    packs.pack(layer.weight, layer.bias)
    assert isinstance(layer, AdaptiveLinear)
    return layer


def plain(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.linear(x, layer.weight, layer.bias)  # type: ignore[arg-type]


def packs(layer: AdaptiveLinear) -> Packs:
    assert layer._adaptive is not None and layer._adaptive.packs is not None
    return layer._adaptive.packs


def check(layer: nn.Module, x: torch.Tensor) -> None:
    with torch.inference_mode():
        y, wanted = layer(x), plain(layer, x)
    assert y.shape == wanted.shape and y.dtype == wanted.dtype
    torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-5)


def ran_plain(layer: AdaptiveLinear, x: torch.Tensor) -> bool:
    """Tell whether a call took the plain way, by the functions that it did not call."""
    called: list[int] = []
    held = packs(layer)
    bound = held._bound
    assert bound is not None
    spied = {name: _spied(one, called) for name, one in bound.calls.items()}
    bound.calls, before = spied, bound.calls
    layer(x)
    bound.calls = before
    return not called


def _spied(run: Callable[..., torch.Tensor], called: list[int]) -> Callable[..., torch.Tensor]:
    def call(x: torch.Tensor) -> torch.Tensor:
        called.append(1)
        return run(x)

    return call


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 7, 32, 33, 64, 65, 131])
def test_every_segment_gives_the_product(rows: int, bias: bool) -> None:
    check(adapted(bias=bias), torch.randn(rows, K))


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(K),
        torch.randn(2, 3, 4, K),
        torch.randn(0, K),
        torch.randn(3, 0, K),
        torch.randn(K, 5).t(),
        torch.randn(9, 2 * K)[:, :K],
        torch.randn(9, 2 * K)[::2, ::2],
        torch.randn(1, K).expand(6, K),
        torch.randn(4, 1, K).expand(4, 5, K),
        torch.randn(3, K, 2).transpose(1, 2),
    ],
    ids=lambda x: f"{tuple(x.shape)}/{x.stride()}",
)
def test_any_shape_and_any_strides(x: torch.Tensor) -> None:
    check(adapted(), x)


def test_the_variant_for_the_rows_runs() -> None:
    layer = adapted()
    with torch.inference_mode():
        assert not ran_plain(layer, torch.randn(32, K))
        assert ran_plain(layer, torch.randn(33, K))
        assert not ran_plain(layer, torch.randn(5, 13, K))


def test_the_same_rows_give_the_same_bits() -> None:
    layer, x = adapted(), torch.randn(17, K)
    with torch.inference_mode():
        assert all(torch.equal(layer(x), layer(x.clone())) for _ in range(20))


def test_nan_and_inf_go_through_as_in_torch() -> None:
    layer = adapted()
    with torch.no_grad():
        layer.weight[3, 5], layer.weight[4, 6] = torch.nan, torch.inf
    x = torch.randn(6, K)
    x[2, 7], x[3, 8] = torch.inf, torch.nan
    with torch.inference_mode():
        layer(x)
        y, wanted = layer(x), plain(layer, x)
    assert torch.equal(y.isnan(), wanted.isnan()) and torch.equal(y.isinf(), wanted.isinf())


def wrong_width(layer: nn.Module) -> str:
    with pytest.raises(RuntimeError) as found, torch.inference_mode():
        layer(torch.randn(3, K + 1))
    return str(found.value)


def test_a_wrong_width_is_worded_by_torch() -> None:
    assert wrong_width(adapted()) == wrong_width(nn.Linear(K, N))


@pytest.mark.parametrize("requires", ["weight", "input"])
def test_gradients_are_those_of_the_plain_layer(requires: str, caplog: pytest.LogCaptureFixture) -> None:
    layer, twin = adapted(), nn.Linear(K, N)
    twin.load_state_dict(layer.state_dict())
    layer.weight.requires_grad_(requires == "weight")
    layer.bias.requires_grad_(False)
    x = torch.randn(5, K, requires_grad=requires == "input")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            layer(x).square().sum().backward()
    z = x.detach().requires_grad_(requires == "input")
    for _ in range(2):
        twin(z).square().sum().backward()
    assert torch.equal(layer.weight.grad, twin.weight.grad) if requires == "weight" else torch.equal(x.grad, z.grad)  # type: ignore[arg-type]
    assert [one.message for one in caplog.records] == [
        "gradients are recorded, so adapted products run plain: call the model inside torch.inference_mode()"
    ]


def test_without_gradients_to_record_no_mode_is_needed() -> None:
    layer = adapted().requires_grad_(False)
    assert not ran_plain(layer, torch.randn(5, K))


def test_training_mode_is_plain_and_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    layer = adapted().train()
    x = torch.randn(5, K)
    assert torch.equal(layer(x), plain(layer, x))
    assert packs(layer).nbytes == 0
    layer.eval()
    check(layer, x)
    assert packs(layer).nbytes > 0 and not caplog.records


CHANGES: dict[str, Callable[[nn.Linear], object]] = {
    "copy_": lambda layer: layer.weight.copy_(torch.randn(N, K)),
    "bias": lambda layer: layer.bias.add_(1.0),
    "load_state_dict": lambda layer: layer.load_state_dict({k: v + 1 for k, v in layer.state_dict().items()}),
    "assign": lambda layer: layer.load_state_dict({k: v + 1 for k, v in layer.state_dict().items()}, assign=True),
    "another parameter": lambda layer: setattr(layer, "weight", nn.Parameter(torch.randn(N, K))),
    "another bias": lambda layer: setattr(layer, "bias", nn.Parameter(torch.randn(N))),
    "data": lambda layer: setattr(layer.weight, "data", torch.randn(N, K)),
    "there and back": lambda layer: layer.double().float(),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_changed_parameters_are_used_at_once_and_packed_again(change: str) -> None:
    layer, x = adapted(), torch.randn(5, K)
    check(layer, x)
    with torch.no_grad():
        CHANGES[change](layer)
    for _ in range(3):
        check(layer, x)
    with torch.inference_mode():
        assert not ran_plain(layer, x)


@pytest.mark.parametrize("bias", [True, False])
def test_a_bias_that_goes_or_comes_later(bias: bool) -> None:
    layer = adapted(bias=bias)
    layer.bias = None if bias else nn.Parameter(torch.randn(N))  # type: ignore[assignment]
    for _ in range(3):
        check(layer, torch.randn(5, K))
    with torch.inference_mode():
        assert not ran_plain(layer, torch.randn(5, K))


@pytest.mark.parametrize("shapes", [((N - 8, K), (N - 8,)), ((N + 8, K), (N + 8,)), ((N, K - 8), (N,)), ((N, K), (1,))])
def test_parameters_of_other_shapes_are_torch_s(shapes: tuple[tuple[int, int], tuple[int]]) -> None:
    layer = adapted()
    layer.weight, layer.bias = (nn.Parameter(torch.randn(shape)) for shape in shapes)
    x = torch.randn(5, shapes[0][1])
    with torch.inference_mode():
        for _ in range(3):
            assert torch.equal(layer(x), plain(layer, x))


def test_an_optimizer_step_is_seen() -> None:
    layer, x = adapted(), torch.randn(5, K)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    layer.train()
    layer(x).square().mean().backward()
    optimizer.step()
    layer.eval()
    for _ in range(3):
        check(layer, x)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("rows", [5, 40])
def test_an_optimizer_step_in_evaluation_mode_is_seen(rows: int, fused: bool) -> None:
    layer, x = adapted(), torch.randn(5, K)  # 40 rows run plain anyway
    check(layer, x)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=fused)
    layer(torch.randn(rows, K)).square().mean().backward()
    optimizer.step()
    for _ in range(3):
        check(layer, x)


def test_packs_that_are_dropped_while_they_are_made_do_not_stay() -> None:
    layer = adapted()
    held, made = packs(layer), packs(layer)._make
    droppers: list[threading.Thread] = []

    def make(weight: torch.Tensor, bias: torch.Tensor | None) -> object:
        found = made(weight, bias)
        droppers.append(threading.Thread(target=held.drop))
        droppers[0].start()
        droppers[0].join(0.2)
        return found

    held._make = make  # type: ignore[method-assign,assignment]
    held.pack(layer.weight, layer.bias)
    droppers[0].join()
    assert held._bound is None


def test_functional_call_never_packs_in_vain() -> None:
    layer, x = adapted(), torch.randn(5, K)
    bound = packs(layer)._bound
    for i in range(4):
        other = {"weight": torch.full((N, K), float(i)), "bias": torch.zeros(N)}
        with torch.inference_mode():
            y = torch.func.functional_call(layer, other, (x,))
        torch.testing.assert_close(y, (i * x.sum(1, keepdim=True)).expand(5, N), rtol=1e-4, atol=1e-3)
    assert packs(layer)._bound is bound
    check(layer, x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_torch_s(dtype: torch.dtype) -> None:
    layer = adapted().to(dtype)
    x = torch.randn(5, K, dtype=dtype)
    with torch.inference_mode():
        assert torch.equal(layer(x), plain(layer, x))


def test_autocast_is_torch_s() -> None:
    layer, x = adapted(), torch.randn(5, K)
    with torch.inference_mode(), torch.autocast("cpu"):
        assert layer(x).dtype is torch.bfloat16


def test_nothing_leaves_torch_while_it_is_watched() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    class Seen(TorchDispatchMode):
        ops: list[str] = []  # noqa: RUF012

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            self.ops.append(func._overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    class Functions(TorchFunctionMode):
        names: list[str] = []  # noqa: RUF012

        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            self.names.append(getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    layer, x = adapted(), torch.randn(5, K)
    with torch.no_grad():
        with Seen():
            layer(x)
        with Functions():
            layer(x)
        graph = make_fx(layer)(x)
    assert "addmm" in Seen.ops and "linear" in Functions.names
    assert any("addmm" in str(node.target) for node in graph.graph.nodes)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_compiled_exported_and_traced_models_hold_the_plain_product() -> None:
    layer, x = adapted(), torch.randn(5, K)
    with torch.inference_mode():
        wanted = plain(layer, x)
        compiled = torch.compile(layer, backend="eager", fullgraph=True)(x)
    exported = torch.export.export(layer, (x,))
    traced = torch.jit.trace(layer, (x,))
    assert torch.equal(compiled, wanted)
    assert any("linear" in str(node.target) for node in exported.graph.nodes)
    with torch.inference_mode():
        assert torch.equal(traced(x), wanted)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_transforms_of_torch_func_are_the_plain_ones() -> None:
    layer, x = adapted().requires_grad_(False), torch.randn(5, K)
    torch.testing.assert_close(torch.func.vmap(layer)(x), plain(layer, x), rtol=1e-5, atol=1e-5)
    _, tangent = torch.func.jvp(layer, (x,), (x,))
    torch.testing.assert_close(tangent, x @ layer.weight.t(), rtol=1e-5, atol=1e-5)
    with torch.autograd.forward_ad.dual_level():
        dual = layer(torch.autograd.forward_ad.make_dual(x, x))
        assert torch.autograd.forward_ad.unpack_dual(dual).tangent is not None


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_tensors_that_are_not_what_they_seem() -> None:
    class Marked(torch.Tensor):
        pass

    layer, x = adapted(), torch.randn(5, K)
    with torch.inference_mode():
        assert type(layer(x.as_subclass(Marked))) is Marked
        negative = torch._neg_view(x)
        torch.testing.assert_close(layer(negative), plain(layer, negative))
        nested = torch.nested.nested_tensor([x, x[:2]])
        assert layer(nested).is_nested


def test_another_number_of_threads_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    layer, x = adapted(threads=2), torch.randn(5, K)
    with torch.inference_mode(), caplog.at_level(logging.WARNING):
        assert torch.equal(layer(x), plain(layer, x)) and torch.equal(layer(x), plain(layer, x))
    (one,) = caplog.records
    assert one.getMessage().startswith("adapted for threads=2, but torch uses 1 now")


def test_a_parametrization_that_comes_later() -> None:
    layer, x = adapted(), torch.randn(5, K)
    before = copy.deepcopy(layer.state_dict())
    nn.utils.parametrizations.orthogonal(layer)
    check(layer, x)
    nn.utils.parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    check(layer, x)
    assert list(layer.state_dict()) == list(before) or set(layer.state_dict()) == set(before)


def test_restored_while_parametrized_it_is_plain() -> None:
    layer, x = adapted(), torch.randn(5, K)
    nn.utils.parametrizations.weight_norm(layer)
    assert put_back(layer)
    check(layer, x)
    layer.train().eval()
    nn.utils.parametrize.remove_parametrizations(layer, "weight")
    check(layer, x)


def test_copies_and_pickles_carry_no_packed_bytes() -> None:
    layer, x = adapted(), torch.randn(5, K)
    twin = copy.deepcopy(layer)
    assert packs(twin).nbytes == 0 and packs(twin).decision == TABLE
    check(twin, x)
    assert packs(twin).nbytes == packs(layer).nbytes
    raw = pickle.dumps(layer)
    assert len(raw) < layer.weight.nbytes * 1.2
    check(pickle.loads(raw), x)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    check(torch.load(file, weights_only=False), x)


def test_state_dict_and_attributes_are_those_of_the_plain_layer() -> None:
    layer = adapted()
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert isinstance(layer, nn.Linear) and [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    assert (layer.in_features, layer.out_features) == (K, N)


def test_put_back_leaves_nothing() -> None:
    twin = nn.Linear(K, N)
    layer = adapted()
    assert put_back(layer) and type(layer) is nn.Linear and layer.__dict__.keys() == twin.__dict__.keys()
    assert not put_back(layer)


def test_hooks_stay() -> None:
    layer = nn.Linear(K, N).eval()
    seen: list[int] = []
    layer.register_forward_hook(lambda module, args, y: seen.append(y.shape[0]))
    take_over(layer, Packs(TABLE, N, K))
    check(layer, torch.randn(5, K))
    assert seen == [5]


def test_many_threads_give_what_one_gives() -> None:
    layer = adapted()
    inputs = [torch.randn(rows, K) for rows in (1, 3, 8, 20, 40, 70)]
    with torch.inference_mode():
        wanted = [layer(x) for x in inputs]
    wrong: list[int] = []

    def work(offset: int) -> None:
        torch.set_num_threads(1)
        with torch.inference_mode():
            for i in range(60):
                x = (i + offset) % len(inputs)
                if i % 20 == 10:
                    packs(layer).drop()
                if not torch.equal(layer(inputs[x]), wanted[x]):
                    wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not wrong


def test_conv1d_of_transformers() -> None:
    from transformers.pytorch_utils import Conv1D

    layer = Conv1D(N, K).eval()
    twin = copy.deepcopy(layer)
    take_over(layer, Packs(TABLE, N, K, transposed=True))
    for rows in (5, 40, 80):
        x = torch.randn(2, rows, K)
        with torch.inference_mode():
            torch.testing.assert_close(layer(x), twin(x), rtol=1e-5, atol=1e-5)
    again = pickle.loads(pickle.dumps(layer))
    with torch.inference_mode():
        torch.testing.assert_close(again(x), twin(x), rtol=1e-5, atol=1e-5)
    layer.train()
    assert torch.equal(layer(x), twin(x))
    assert put_back(layer) and type(layer) is Conv1D
