"""What stands in is neutral where it is consumed, fits every batch size and length, and hides no tensor."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mlsysopt.design.ablate.probe import probe
from mlsysopt.design.ablate.select import Part, match, paths_of
from mlsysopt.design.ablate.standins import Ghost, Identity, Linear, Matched, Neutral, Refused, StandIn
from mlsysopt.design.ablate.surgery import remove
from mlsysopt.testing.ablation_nets import NETS, GraphNet, MixerNet, ResidualNet, Tagger, TransformerNet


class Uses(nn.Module):
    """A module in an expression, between a stem and a head of the same width."""

    def __init__(self, f: nn.Module, use: Any, width: int = 6) -> None:
        super().__init__()
        self.stem, self.f, self.head = nn.Linear(width, width), f, nn.Linear(width, width)
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.use(self.f, self.stem(x)))


def without(model: nn.Module, path: str, *, how: str = "auto", batch: Any = None, second: Any = None) -> nn.Module:
    """Return a copy of the model without a part."""
    first = torch.randn(8, 6) if batch is None else batch
    seen = probe(model, first, second_batch=torch.randn(5, 6) if batch is None else second)
    changed = copy.deepcopy(model)
    remove(changed, Part(path, paths_of(changed)[path]), how=how, probe=seen)
    return changed.eval()


@pytest.mark.parametrize(
    ("use", "reduced"),
    [
        (lambda f, x: x + f(x), lambda x: x),
        (lambda f, x: x - f(x).relu(), lambda x: x),
        (lambda f, x: x * f(x), lambda x: x),
        (lambda f, x: x * (1 + f(x)), lambda x: x),
        (lambda f, x: torch.cat([x[:, :3], f(x)[:, :3]], 1), lambda x: torch.cat([x[:, :3], 0 * x[:, :3]], 1)),
        (lambda f, x: f(x), lambda x: x),
        (lambda f, x: torch.tanh(f(x)), torch.tanh),
    ],
)
def test_auto_is_the_model_without_the_part(use: Any, reduced: Any) -> None:
    model = Uses(nn.Linear(6, 6), use).eval()
    changed, x = without(model, "f"), torch.randn(11, 6)
    assert torch.equal(changed(x), model.head(reduced(model.stem(x))))


def test_identity_on_a_residual_branch_would_double_the_stream() -> None:
    model = Uses(nn.Linear(6, 6), lambda f, x: x + f(x))
    x = torch.randn(3, 6)
    assert torch.equal(without(model, "f", how="identity")(x), model.head(2 * model.stem(x)))


def test_a_norm_or_dropout_at_the_end_of_a_branch_leaves_the_branch() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.map, self.norm, self.drop = nn.Linear(6, 6), nn.Linear(6, 6), nn.LayerNorm(6), nn.Dropout()

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return torch.relu(x + self.drop(self.norm(self.map(x)))) @ torch.eye(6)

    model, x = Branch().eval(), torch.randn(4, 6)
    stream = model.stem(x)
    assert torch.equal(without(model, "norm")(x), torch.relu(stream + model.map(stream)))
    assert torch.equal(without(model, "drop")(x), model(x))
    assert torch.equal(without(model, "map")(x), torch.relu(stream + model.norm(stream)))


def test_a_norm_that_is_the_branch_goes_with_it() -> None:
    model, x = Uses(nn.LayerNorm(6), lambda f, x: x + f(x)), torch.randn(4, 6)
    assert torch.equal(without(model, "f")(x), model.head(model.stem(x)))


def test_an_embedding_becomes_zeros_and_a_trunk_its_input() -> None:
    model = TransformerNet()
    batches = NETS["transformer"].batch(8), NETS["transformer"].batch(5)
    changed = without(model, "tokens", batch=batches[0], second=batches[1])
    assert isinstance(changed.tokens, Neutral)
    for shape in ((8, 11), (2, 17), (1, 3)):
        assert torch.equal(changed.tokens(torch.zeros(shape, dtype=torch.long)), torch.zeros(*shape, 16))
    narrow = without(GraphNet(), "narrow", batch=NETS["graph"].batch(8), second=NETS["graph"].batch(5)).narrow
    x = torch.randn(13, 12)
    assert torch.equal(narrow(x, torch.eye(13)), x[:, :6])
    assert narrow.words == "first 6 of 12 features"


class TestStructures:
    def attention(self, **flags: Any) -> nn.Module:
        return Uses(
            nn.MultiheadAttention(6, 2, batch_first=True),
            lambda f, x: (x[:, None] + f(x[:, None], x[:, None], x[:, None], **flags)[0])[:, 0],
        )

    def test_attention_gives_out_and_weights(self) -> None:
        stand = without(self.attention(need_weights=True), "f").f
        out, weights = stand(torch.ones(3, 9, 6), torch.ones(3, 9, 6), torch.ones(3, 9, 6))
        assert (out.shape, out.abs().sum()) == ((3, 9, 6), 0)
        assert weights.shape[0] == 3

    def test_weights_follow_the_length(self) -> None:
        class Attends(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.attend, self.head = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 2)

            def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
                out, weights = self.attend(x, x, x)
                return self.head(x + out), weights * 2

        model = Attends()
        seen = probe(model, torch.randn(4, 7, 6), second_batch=torch.randn(3, 7, 6))
        assert seen.seen["attend"].gives_output
        stand = Uses(nn.MultiheadAttention(6, 2, batch_first=True), lambda f, x: x + f(x, x, x)[0])
        made = without(stand, "f", batch=torch.randn(4, 7, 6), second=torch.randn(3, 7, 6)).f
        out, weights = made(torch.ones(2, 12, 6))
        assert (out.shape, weights.shape) == ((2, 12, 6), (2, 12, 12))

    def test_none_stays_none(self) -> None:
        assert without(self.attention(need_weights=False), "f").f(torch.ones(2, 4, 6))[1] is None

    def test_a_recurrent_layer_gives_out_and_state(self) -> None:
        model = Tagger()
        stand = without(model, "both", batch=NETS["tagger"].batch(8), second=NETS["tagger"].batch(5)).both
        out, state = stand(torch.ones(3, 14, 12))
        assert torch.equal(out, torch.ones(3, 14, 24)), "a factor"
        assert torch.equal(state, torch.zeros(2, 3, 12)), "nobody uses it"

    def test_a_state_that_is_used_gets_the_signal(self) -> None:
        class Last(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.gru, self.head = nn.GRU(6, 4, num_layers=2), nn.Linear(4, 2)

            def forward(self, x: Tensor) -> Tensor:
                return self.head(self.gru(x)[1][-1])

        model = without(Last(), "gru", batch=torch.randn(9, 8, 6), second=torch.randn(9, 5, 6))
        x = torch.randn(12, 3, 6)
        out, state = model.gru(x)
        assert state.shape == (2, 3, 4)
        assert torch.allclose(state, torch.stack([x[:6].mean(0), x[6:].mean(0)])[..., :4], atol=1e-6)
        assert out.shape == (12, 3, 4)
        assert out.abs().sum() == 0

    def test_packed_sequences_keep_their_sizes(self) -> None:
        class Packed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.gru, self.head = nn.GRU(6, 6, batch_first=True), nn.Linear(6, 2)

            def forward(self, x: Tensor) -> Tensor:
                lengths = torch.arange(len(x), 0, -1).clamp(max=x.shape[1])
                packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
                return self.head(nn.utils.rnn.pad_packed_sequence(self.gru(packed)[0], batch_first=True)[0])

        model = without(Packed(), "gru", batch=torch.randn(8, 4, 6), second=torch.randn(5, 4, 6))
        assert model(torch.randn(3, 4, 6)).shape == (3, 3, 2)


class TestSizes:
    @pytest.mark.parametrize(
        ("layer", "given", "longer", "shape"),
        [
            (nn.Conv2d(4, 6, 3, stride=2, padding=1), (4, 16, 16), (4, 24, 32), (6, 12, 16)),
            (nn.Conv2d(4, 2, 3), (4, 10, 10), (4, 20, 14), (2, 18, 12)),
            (nn.ConvTranspose2d(4, 3, 2, stride=2), (4, 8, 8), (4, 10, 6), (3, 20, 12)),
            (nn.Conv1d(5, 7, 3, stride=3), (5, 30), (5, 60), (7, 20)),
            (nn.MaxPool2d(2), (4, 16, 16), (4, 32, 8), (4, 16, 4)),
            (nn.AdaptiveAvgPool2d(3), (4, 16, 16), (4, 32, 8), (4, 3, 3)),
            (nn.Upsample(scale_factor=2), (4, 8, 8), (4, 12, 12), (4, 24, 24)),
            (nn.Linear(6, 9), (11, 6), (17, 6), (17, 9)),
            (nn.Linear(6, 9), (5, 5, 6), (7, 3, 6), (7, 3, 9)),
            (nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.Flatten(2)), (3, 16, 16), (3, 24, 24), (8, 36)),
            (nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (3, 2, 2), None, None),
        ],
    )
    @pytest.mark.parametrize("how", ["identity", "neutral", "linear", "matched"])
    def test_shapes_at_other_sizes(self, layer: nn.Module, given: Any, longer: Any, shape: Any, how: str) -> None:
        class Chain(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.f = layer

            def forward(self, x: Tensor) -> Tensor:
                return (self.f(x.tanh()).cos() ** 2).sum()

        model, first = Chain(), torch.randn(8, *given)
        if how == "matched" and not list(layer.parameters()):
            with pytest.raises(Refused, match="no parameters to match"):
                without(model, "f", how=how, batch=first)
            return
        changed = without(model, "f", how=how, batch=first, second=torch.randn(5, *given))
        assert changed.f(first).shape == layer(first).shape
        assert changed.f(torch.randn(3, *given)).shape == layer(torch.randn(3, *given)).shape
        if shape is not None:
            assert changed.f(torch.randn(2, *longer)).shape == (2, *shape)

    def test_precision_follows_the_model(self) -> None:
        model = without(TransformerNet(), "tokens", batch=NETS["transformer"].batch(8)).double()
        assert model.tokens(torch.zeros(2, 5, dtype=torch.long)).dtype is torch.float64
        assert not any("like" in name for name in model.state_dict())

    def test_a_probe_in_double_serves_a_model_in_single_precision(self) -> None:
        seen = probe(ResidualNet().double(), torch.randn(8, 1, 16, 16).double())
        for how in ("auto", "linear", "matched"):
            model = ResidualNet()
            remove(model, match(model, "blocks.1")[0], how=how, probe=seen)
            assert {one.dtype for one in model.parameters()} == {torch.float32}
            assert model(torch.randn(3, 1, 16, 16)).dtype is torch.float32


class TestMatched:
    @pytest.mark.parametrize("name", NETS)
    def test_parameters_agree_within_five_percent(self, name: str) -> None:
        net = NETS[name]
        base, seen = net.make(), probe(net.make(), net.batch(8), second_batch=net.batch(5))
        built = 0
        for path in seen.seen:
            wanted = sum(one.numel() for one in base.get_submodule(path).parameters())
            model = net.make()
            try:
                remove(model, Part(path, paths_of(model)[path]), how="matched", probe=seen)
            except Refused:
                continue
            found = sum(one.numel() for one in model.get_submodule(path).parameters())
            assert abs(found - wanted) <= 0.05 * wanted, path
            built += 1
        assert built >= 4

    def test_its_every_parameter_learns(self) -> None:
        for how, kind in (("matched", Matched), ("linear", Linear)):
            model = without(MixerNet(), "blocks.0.channels", how=how, batch=NETS["mixer"].batch(8))
            assert isinstance(model.blocks[0].channels, kind)
            model(NETS["mixer"].batch(4)).sum().backward()
            assert all(bool((one.grad != 0).any()) for one in model.blocks[0].channels.parameters())

    def test_a_norm_gets_scales_and_biases(self) -> None:
        stand = without(MixerNet(), "norm", how="matched", batch=NETS["mixer"].batch(8)).norm
        assert stand.words == "scales and biases, beside its input"
        x = torch.randn(2, 16, 12)
        assert torch.equal(stand(x), x)

    def test_what_has_no_parameters_has_no_match(self) -> None:
        with pytest.raises(Refused, match="no parameters to match"):
            without(ResidualNet(), "drop", how="matched", batch=NETS["residual"].batch(4))


class TestGhosts:
    def stand(self) -> StandIn:
        model = without(TransformerNet(), "encoder.layers.0.self_attn", batch=NETS["transformer"].batch(4))
        return model.get_submodule("encoder.layers.0.self_attn")

    def test_flags_and_submodules_answer(self) -> None:
        stand = self.stand()
        assert (stand.batch_first, stand.embed_dim, stand.num_heads) == (True, 16, 2)
        assert isinstance(stand.out_proj, Ghost)
        assert stand.out_proj.in_features == 16
        assert repr(stand) == "Neutral(for MultiheadAttention)"
        assert not list(stand.parameters())

    def test_tensors_do_not(self) -> None:
        stand = self.stand()
        with pytest.raises(Refused, match=r"its in_proj_weight is read without calling it \(test_standins.py:\d+\)"):
            _ = stand.in_proj_weight
        with pytest.raises(Refused, match="its weight is read"):
            _ = stand.out_proj.weight
        with pytest.raises(Refused, match="is called from outside"):
            stand.out_proj(torch.ones(2))
        with pytest.raises(AttributeError):
            _ = stand.no_such_thing

    def test_an_empty_stand_in_is_true(self) -> None:
        assert self.stand()
        assert len(without(ResidualNet(), "blocks", batch=NETS["residual"].batch(4)).blocks) == 3

    def test_they_copy_and_travel(self) -> None:
        for stand in (self.stand(), copy.deepcopy(self.stand()), pickle.loads(pickle.dumps(self.stand()))):
            assert stand.batch_first
            assert stand(torch.ones(2, 3, 16))[0].shape == (2, 3, 16)


def test_reshapes_have_nothing_to_take_out() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Flatten(), nn.Identity(), nn.Linear(6, 2))
    for path in ("1", "2"):
        with pytest.raises(Refused, match="only passes its input on"):
            without(model, path)


@pytest.mark.parametrize("how", ["identity", "linear", "matched"])
def test_integers_cannot_be_passed_on(how: str) -> None:
    with pytest.raises(Refused, match="its input is integers"):
        without(Tagger(), "embed", how=how, batch=NETS["tagger"].batch(4))


def test_kinds_by_name() -> None:
    model = Uses(nn.Linear(6, 6), lambda f, x: x + f(x))
    kinds = {how: type(without(model, "f", how=how).f) for how in ("auto", "identity", "neutral", "linear", "matched")}
    assert kinds == {"auto": Neutral, "identity": Identity, "neutral": Neutral, "linear": Linear, "matched": Matched}
