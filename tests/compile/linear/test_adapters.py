"""Adapted attention and encoder layers give what torch's give, masks, weights and NaN included."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from mlsysopt.compile.linear import adapt, restore
from mlsysopt.compile.linear.adapters import AdaptiveAttention, AdaptiveEncoderLayer

B, S, E = 3, 7, 128


def bool_masks() -> dict[str, torch.Tensor | None]:
    padding = torch.zeros(B, S, dtype=torch.bool)
    padding[1, 5:], padding[2, 3:] = True, True
    everything = padding.clone()
    everything[0] = True
    causal = torch.triu(torch.ones(S, S, dtype=torch.bool), 1)
    per_head = torch.rand(B * 4, S, S, generator=torch.Generator().manual_seed(1)) < 0.2
    per_head[..., 0] = False
    return {"none": None, "padding": padding, "everything": everything, "causal": causal, "per_head": per_head}


def added(mask: torch.Tensor | None) -> torch.Tensor | None:
    return None if mask is None else torch.zeros(mask.shape).masked_fill(mask, -math.inf)


def pairs(*, float_masks: bool) -> Iterator[tuple[torch.Tensor | None, torch.Tensor | None]]:
    masks = bool_masks()
    for padding, over in itertools.product(("none", "padding", "everything"), ("none", "causal", "per_head")):
        two = masks[padding], masks[over]
        yield (added(two[0]), added(two[1])) if float_masks else two


def same(found: torch.Tensor | None, wanted: torch.Tensor | None) -> None:
    assert (found is None) == (wanted is None)
    if found is not None and wanted is not None:
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5, equal_nan=True)


def attention(panels: object, **options: object) -> tuple[nn.MultiheadAttention, nn.MultiheadAttention]:
    plain = nn.MultiheadAttention(E, 4, **options).eval()  # type: ignore[arg-type]
    nn.init.normal_(plain.out_proj.bias) if plain.out_proj.bias is not None else None
    return plain, adapt(copy.deepcopy(plain), prices=panels, max_extra_memory="2x")  # type: ignore[arg-type]


@pytest.mark.parametrize("float_masks", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
def test_self_attention(panels: object, batch_first: bool, need_weights: bool, float_masks: bool) -> None:
    plain, fast = attention(panels, batch_first=batch_first)
    assert type(fast) is AdaptiveAttention and fast.plan().changed
    x = torch.randn(B, S, E) if batch_first else torch.randn(S, B, E)
    with torch.inference_mode():
        for (padding, over), average in itertools.product(pairs(float_masks=float_masks), (False, True)):
            given = {"key_padding_mask": padding, "attn_mask": over, "average_attn_weights": average}
            wanted = plain(x, x, x, need_weights=need_weights, **given)
            found = fast(x, x, x, need_weights=need_weights, **given)
            same(found[0], wanted[0])
            same(found[1], wanted[1])


def test_a_causal_hint(panels: object) -> None:
    plain, fast = attention(panels, batch_first=True)
    x, causal = torch.randn(B, S, E), bool_masks()["causal"]
    with torch.inference_mode():
        for mask in (causal, added(causal)):
            options = {"attn_mask": mask, "is_causal": True, "need_weights": False}
            same(fast(x, x, x, **options)[0], plain(x, x, x, **options)[0])


@pytest.mark.parametrize("options", [{"bias": False}, {"add_bias_kv": True}, {"add_zero_attn": True}, {"kdim": 96}])
def test_other_kinds_of_attention(panels: object, options: dict[str, object]) -> None:
    plain, fast = attention(panels, **options)
    x = torch.randn(S, B, E)
    key = torch.randn(S, B, 96) if "kdim" in options else x
    value = x
    with torch.inference_mode():
        for found, wanted in zip(fast(x, key, value), plain(x, key, value), strict=True):
            same(found, wanted)


def test_cross_attention_and_single_sequences_are_torch_s(panels: object) -> None:
    plain, fast = attention(panels)
    x, memory = torch.randn(S, B, E), torch.randn(2 * S, B, E)
    one = torch.randn(S, E)
    with torch.inference_mode():
        assert torch.equal(fast(x, memory, memory)[0], plain(x, memory, memory)[0])
        assert torch.equal(fast(one, one, one)[0], plain(one, one, one)[0])


def test_wrong_masks_are_worded_by_torch(panels: object) -> None:
    plain, fast = attention(panels)
    x = torch.randn(S, B, E)
    for bad in (torch.zeros(S + 1, S), torch.zeros(S, S, dtype=torch.int64)):
        messages = []
        for model in (plain, fast):
            with pytest.raises((RuntimeError, AssertionError)) as found, torch.inference_mode():
                model(x, x, x, attn_mask=bad)
            messages.append(str(found.value))
        assert messages[0] == messages[1]


def test_gradients_are_those_of_the_plain_attention(panels: object) -> None:
    plain, fast = attention(panels, batch_first=True)
    x = torch.randn(B, S, E)
    for model in (plain, fast):
        model(x, x, x)[0].square().sum().backward()
    assert torch.equal(plain.in_proj_weight.grad, fast.in_proj_weight.grad)  # type: ignore[arg-type]


def test_a_pickle_of_an_attention(panels: object) -> None:
    plain, fast = attention(panels, batch_first=True)
    again, x = pickle.loads(pickle.dumps(fast)), torch.randn(B, S, E)
    with torch.inference_mode():
        same(again(x, x, x)[0], plain(x, x, x)[0])
    restore(fast)
    assert type(fast) is nn.MultiheadAttention and fast.__dict__.keys() == plain.__dict__.keys()


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("activation", ["gelu", "relu", "silu"])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_encoder_layers(panels: object, batch_first: bool, norm_first: bool, activation: str, heads: int) -> None:
    function = nn.functional.silu if activation == "silu" else activation
    plain = nn.TransformerEncoderLayer(
        E, heads, 256, activation=function, batch_first=batch_first, norm_first=norm_first
    ).eval()
    fast = adapt(copy.deepcopy(plain), prices=panels, max_extra_memory="2x")  # type: ignore[arg-type]
    assert type(fast) is AdaptiveEncoderLayer
    x = torch.randn(B, S, E) if batch_first else torch.randn(S, B, E)
    with torch.inference_mode():
        for float_masks in (False, True):
            for padding, over in pairs(float_masks=float_masks):
                if over is None or over.dim() == 2:
                    same(fast(x, over, padding), plain(x, over, padding))
    # With gradients torch takes its steps itself.
    same(fast(x).detach(), plain(x).detach())
    restore(fast)
    assert type(fast) is nn.TransformerEncoderLayer and fast.__dict__.keys() == plain.__dict__.keys()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_a_whole_encoder_with_padding_takes_nested_tensors(panels: object) -> None:
    layer = nn.TransformerEncoderLayer(E, 4, 256, batch_first=True)
    plain = nn.TransformerEncoder(layer, 2).eval()
    fast = adapt(copy.deepcopy(plain), prices=panels, max_extra_memory="2x")  # type: ignore[arg-type]
    x, padding = torch.randn(B, S, E), bool_masks()["padding"]
    with torch.inference_mode():
        same(fast(x, src_key_padding_mask=padding), plain(x, src_key_padding_mask=padding))
        same(fast(x), plain(x))


def test_a_decoder(panels: object) -> None:
    plain = nn.TransformerDecoderLayer(E, 4, 256, batch_first=True).eval()
    fast = adapt(copy.deepcopy(plain), prices=panels, max_extra_memory="2x")  # type: ignore[arg-type]
    assert "cross attention" in {one.reason for one in fast.plan().uncovered}
    x, memory = torch.randn(B, S, E), torch.randn(B, 5, E)
    causal = bool_masks()["causal"]
    with torch.inference_mode():
        same(fast(x, memory, tgt_mask=causal), plain(x, memory, tgt_mask=causal))


@pytest.mark.parametrize("part", ["linear1", "self_attn", "norm2"])
def test_hooks_keep_the_fused_operator_away(panels: object, part: str) -> None:
    plain = nn.TransformerEncoderLayer(E, 4, 256, batch_first=True).eval()
    fast = adapt(copy.deepcopy(plain), prices=panels, max_extra_memory="2x")  # type: ignore[arg-type]
    counts = {"plain": 0, "fast": 0}
    for name, model in (("plain", plain), ("fast", fast)):
        hooked = model.get_submodule(part)
        hooked.register_forward_hook(lambda *_, name=name: counts.update({name: counts[name] + 1}))
    x = torch.randn(B, S, E)
    with torch.inference_mode():
        same(fast(x), plain(x))
        # A row that may attend to nothing is NaN in the fused operator alone.
        same(fast(x, None, bool_masks()["everything"]), plain(x, None, bool_masks()["everything"]))
    assert counts == {"plain": 2, "fast": 2}


@pytest.mark.parametrize("adapted", ["linear", "self_attn"])
def test_autocast_is_torch_s(adapted: str) -> None:
    from mlsysopt.compile.linear.sites import products
    from mlsysopt.compile.linear.swap import install
    from mlsysopt.compile.linear.tables import Table
    from mlsysopt.compile.variants.decision import Decision

    plain = nn.TransformerEncoderLayer(E, 4, 256, batch_first=True).eval()
    fast = copy.deepcopy(plain)
    chosen = [one for one in products(fast) if one.path.startswith(adapted)]
    install(fast, [Table(one, Decision.always("panel.f32")) for one in chosen], threads=1)
    x = torch.randn(B, S, E)
    with torch.inference_mode(), torch.autocast("cpu"):
        assert torch.equal(fast(x), plain(x)) and fast(x).dtype is plain(x).dtype


@pytest.mark.parametrize("rows", [8, 40])
def test_a_fused_step_in_evaluation_mode_is_seen(rows: int) -> None:
    from mlsysopt.compile.linear.sites import products
    from mlsysopt.compile.linear.swap import install
    from mlsysopt.compile.linear.tables import Table
    from mlsysopt.compile.variants.decision import Decision

    plain = nn.MultiheadAttention(E, 4, batch_first=True).eval()
    fast = copy.deepcopy(plain)
    # With 40 rows torch's operator stays.
    install(fast, [Table(one, Decision.of([(1, "panel.f32"), (33, "aten.nt")])) for one in products(fast)], threads=1)
    x = torch.randn(1, 8, E)
    for model in (plain, fast):
        with torch.inference_mode():
            model(x, x, x)
        many = torch.randn(1, rows, E, generator=torch.Generator().manual_seed(0))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
        model(many, many, many)[0].square().sum().backward()
        optimizer.step()
    with torch.inference_mode():
        same(fast(x, x, x)[0], plain(x, x, x)[0])


def test_where_little_is_gained_torch_s_operator_stays() -> None:
    from mlsysopt.compile.linear.sites import products
    from mlsysopt.compile.linear.swap import install
    from mlsysopt.compile.linear.tables import Table
    from mlsysopt.compile.variants.decision import Decision

    plain = nn.TransformerEncoderLayer(E, 4, 512, batch_first=True).eval()
    fast = copy.deepcopy(plain)
    # Up to 8 rows all products have a better form, above that one of the smallest.
    narrow, always = Decision.of([(1, "panel.f32"), (9, "aten.nt")]), Decision.always("panel.f32")
    chosen = [Table(one, always if one.path.endswith("out_proj") else narrow) for one in products(fast)]
    install(fast, chosen, threads=1)
    few, many = torch.randn(1, 8, E), torch.randn(1, 9, E)
    with torch.inference_mode():
        same(fast(few), plain(few))
        assert not torch.equal(fast(few), plain(few)), "the products ran in their own forms"
        assert torch.equal(fast(many), plain(many)), "torch's operator ran"
