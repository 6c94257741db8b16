"""Small models of well-known structure, with random weights: what the importers and exporters are held against.

Widths are narrow and images small, since the structure is the point; every branch, stride and mask of the
full-size model is there. Weights are seeded, so that two calls of `make` give equal models.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from mlsysopt.graph.ir import Graph
from mlsysopt.graph.symbolic import dims
from mlsysopt.graph.types import TensorType, f32, i64

__all__ = ["MODELS", "Model", "graph_of", "truth"]

Sizes = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Model:
    """One model of the zoo.

    Attributes:
        name: Its name in test ids.
        make: Builds the module, float32, in evaluation mode, weights seeded.
        inputs: Builds the declared inputs, in the order of `forward`.
        at: Five assignments of the symbols, all allowed; 1 is among them where the range allows it.
        limits: Lowest and highest value of integer inputs, inclusive.
        train: Whether the first output is a loss whose gradients belong to the program.
        slow: Whether one import takes more than ten seconds.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, TensorType]]
    at: tuple[Sizes, ...]
    limits: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    train: bool = False
    slow: bool = False

    def tensors(self, sizes: Sizes, *, seed: int = 0, floats: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
        """Return random inputs for sizes of the symbols; an input called "mask" keeps its first column."""
        generator = torch.Generator().manual_seed(seed)
        made = dict[str, torch.Tensor]()
        for name, declared in self.inputs().items():
            shape = declared.at(**sizes)
            if declared.dtype.is_int:
                low, high = self.limits[name]
                made[name] = torch.randint(low, high + 1, shape, generator=generator)
                if name == "mask":
                    made[name][:, 0] = 1
            else:
                made[name] = torch.randn(shape, generator=generator, dtype=floats)
        return made


@contextmanager
def _seeded(seed: int = 0) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _settled(module: nn.Module) -> nn.Module:
    """Give normalisations statistics and scales that differ from 0 and 1, and switch to evaluation."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None and part.running_var is not None
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.5, 1.5)
        if isinstance(part, nn.BatchNorm2d | nn.LayerNorm | RMSNorm):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            if getattr(part, "bias", None) is not None:
                nn.init.normal_(part.bias, 0, 0.1)
    return module.eval()


def _make(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    @functools.wraps(build)
    def seeded() -> nn.Module:
        with _seeded():
            return _settled(build())

    return seeded


def _bert(hidden: int, layers: int, heads: int, vocabulary: int, positions: int) -> nn.Module:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=hidden * 4, max_position_embeddings=positions,
    )  # fmt: skip
    return BertModel(config)


def _resnet(layer_type: str, depths: list[int], widths: list[int]) -> nn.Module:
    from transformers import ResNetConfig, ResNetModel

    return ResNetModel(
        ResNetConfig(embedding_size=widths[0], hidden_sizes=widths, depths=depths, layer_type=layer_type)
    )


def _regnet() -> nn.Module:
    from transformers import RegNetConfig, RegNetModel

    config = RegNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 2, 2, 1], groups_width=8, layer_type="y"
    )
    return RegNetModel(config)


def _mobilenet_v2() -> nn.Module:
    from transformers import MobileNetV2Config, MobileNetV2Model

    return MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.25, depth_divisible_by=4, min_depth=4, image_size=32))


class _ConvUnit(nn.Sequential):
    def __init__(self, inward: int, outward: int, kernel: int | tuple[int, int], **options: Any) -> None:
        super().__init__(
            nn.Conv2d(inward, outward, kernel, bias=False, **options),
            nn.BatchNorm2d(outward, eps=1e-3),
            nn.ReLU(inplace=True),
        )


class _Mixed(nn.Module):
    """Four branches side by side: 1x1, factored 1x5 and 5x1, two 3x3, and pooled."""

    def __init__(self, inward: int, width: int) -> None:
        super().__init__()
        self.one = _ConvUnit(inward, width, 1)
        self.five = nn.Sequential(
            _ConvUnit(inward, width, 1),
            _ConvUnit(width, width, (1, 5), padding=(0, 2)),
            _ConvUnit(width, width, (5, 1), padding=(2, 0)),
        )
        self.three = nn.Sequential(
            _ConvUnit(inward, width, 1), _ConvUnit(width, width, 3, padding=1), _ConvUnit(width, width, 3, padding=1)
        )
        self.pooled = _ConvUnit(inward, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = self.pooled(F.avg_pool2d(x, kernel_size=3, stride=1, padding=1))
        return torch.cat([self.one(x), self.five(x), self.three(x), pooled], 1)


class _Narrowing(nn.Module):
    """Halves the image by two strided branches and a pooled one."""

    def __init__(self, inward: int, width: int) -> None:
        super().__init__()
        self.three = _ConvUnit(inward, width, 3, stride=2)
        self.deep = nn.Sequential(_ConvUnit(inward, width, 1), _ConvUnit(width, width, 3, stride=2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.three(x), self.deep(x), F.max_pool2d(x, 3, stride=2)], dim=1)


class Inception(nn.Module):
    """A net of the Inception kind: parallel branches that concatenate."""

    def __init__(self, width: int = 6, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(_ConvUnit(3, width, 3, stride=2), nn.MaxPool2d(3, stride=2))
        self.first = _Mixed(width, width)
        self.narrow = _Narrowing(4 * width, width)
        self.second = _Mixed(6 * width, width)
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.narrow(self.first(self.stem(x))))
        x = F.adaptive_avg_pool2d(x, (1, 1))
        return self.head(torch.flatten(F.dropout(x, training=self.training), 1))


class _Fire(nn.Module):
    def __init__(self, inward: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inward, squeezed, 1)
        self.narrow = nn.Conv2d(squeezed, expanded, 1)
        self.wide = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.squeeze(x), inplace=True)
        return torch.cat([F.relu(self.narrow(x)), F.relu(self.wide(x))], 1)


class SqueezeNet(nn.Module):
    """A net of the SqueezeNet kind: fire modules, pooling that rounds up, a convolution as classifier."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
            _Fire(8, 4, 8),
            _Fire(16, 4, 8),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
            _Fire(16, 6, 12),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(0.5), nn.Conv2d(24, classes, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d((1, 1))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.flatten(self.classifier(self.features(x)), 1)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation, written out as language models do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class Decoder(nn.Module):
    """A block of a language model: RMSNorm, rotary positions, grouped causal attention, SwiGLU."""

    def __init__(self, width: int = 32, heads: int = 4, groups: int = 2, inner: int = 48) -> None:
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, width // heads
        self.before, self.after = RMSNorm(width), RMSNorm(width)
        self.query = nn.Linear(width, heads * self.size, bias=False)
        self.key_value = nn.Linear(width, 2 * groups * self.size, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.gate, self.up = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)
        rates = 1.0 / 10000.0 ** (torch.arange(0, self.size, 2).float() / self.size)
        self.register_buffer("rates", rates, persistent=False)

    def _turned(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        low, high = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-high, low), dim=-1) * sin

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        angles = torch.outer(torch.arange(length, device=x.device).to(self.rates.dtype), self.rates)
        angles = torch.cat((angles, angles), dim=-1)
        cos, sin = angles.cos(), angles.sin()
        y = self.before(x)
        q = self.query(y).view(batch, length, self.heads, self.size).transpose(1, 2)
        k, v = self.key_value(y).view(batch, length, 2 * self.groups, self.size).transpose(1, 2).chunk(2, dim=1)
        q, k = self._turned(q, cos, sin), self._turned(k, cos, sin)
        k, v = (part.repeat_interleave(self.heads // self.groups, dim=1) for part in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.output(y.transpose(1, 2).reshape(batch, length, -1))
        y = self.after(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class TrainingStep(nn.Module):
    """A two-layer perceptron that returns its loss."""

    def __init__(self, inward: int = 12, hidden: int = 20, classes: int = 7) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inward, hidden), nn.GELU(), nn.Linear(hidden, classes))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.layers(x), labels)


def _tokens(most_batch: int, most_length: int) -> Callable[[], dict[str, TensorType]]:
    def declared() -> dict[str, TensorType]:
        b, s = dims("B", "S", max=(most_batch, most_length))
        return {"ids": i64[b, s], "mask": i64[b, s]}

    return declared


def _images(most_batch: int, least: int, most: int) -> Callable[[], dict[str, TensorType]]:
    def declared() -> dict[str, TensorType]:
        n, h, w = dims("N", "H", "W", min=(1, least, least), max=(most_batch, most, most))
        return {"x": f32[n, 3, h, w]}

    return declared


def _rounded_up_images() -> dict[str, TensorType]:
    # Pooling that rounds up is one formula only for sizes of one remainder, here 7 modulo 8.
    n, h, w = dims("N", "h", "w", min=(1, 4, 4), max=(8, 11, 11))
    return {"x": f32[n, 3, 8 * h + 7, 8 * w + 7]}


def _sized_images() -> dict[str, TensorType]:
    (n,) = dims("N", max=8)
    return {"x": f32[n, 3, 32, 32]}


def _sequences() -> dict[str, TensorType]:
    b, s = dims("B", "S", max=(8, 64))
    return {"x": f32[b, s, 32]}


def _labelled() -> dict[str, TensorType]:
    (n,) = dims("N", max=64)
    return {"x": f32[n, 12], "labels": i64[n]}


_LENGTHS = ({"B": 1, "S": 1}, {"B": 1, "S": 7}, {"B": 2, "S": 16}, {"B": 3, "S": 5}, {"B": 8, "S": 33})
# Five halvings must leave more than one row and column: torch refuses a range in which a size becomes 1.
_PICTURES = (
    {"N": 1, "H": 33, "W": 33},
    {"N": 1, "H": 40, "W": 64},
    {"N": 2, "H": 47, "W": 35},
    {"N": 3, "H": 64, "W": 64},
    {"N": 4, "H": 65, "W": 34},
)

_ZOO = (
    Model(
        "bert",
        _make(lambda: _bert(32, 2, 4, 97, 64)),
        _tokens(8, 64),
        _LENGTHS,
        {"ids": (0, 96), "mask": (0, 1)},
    ),
    Model(
        "bert-base-width",
        _make(lambda: _bert(768, 2, 12, 1000, 128)),
        _tokens(8, 128),
        ({"B": 1, "S": 1}, {"B": 1, "S": 9}, {"B": 2, "S": 16}, {"B": 3, "S": 5}, {"B": 2, "S": 33}),
        {"ids": (0, 999), "mask": (0, 1)},
        slow=True,
    ),
    Model("resnet18", _make(lambda: _resnet("basic", [2, 2, 2, 2], [8, 8, 16, 24])), _images(8, 33, 96), _PICTURES),
    Model(
        "resnet50", _make(lambda: _resnet("bottleneck", [3, 4, 6, 3], [8, 16, 16, 32])), _images(8, 33, 96), _PICTURES
    ),
    Model("regnet", _make(_regnet), _images(8, 33, 96), _PICTURES),
    Model(
        "mobilenet_v2",
        _make(_mobilenet_v2),
        _sized_images,
        ({"N": 1}, {"N": 2}, {"N": 3}, {"N": 5}, {"N": 8}),
    ),
    Model("inception", _make(Inception), _images(8, 33, 96), _PICTURES),
    Model(
        "squeezenet",
        _make(SqueezeNet),
        _rounded_up_images,
        tuple({"N": n, "h": h, "w": w} for n, h, w in ((1, 4, 4), (1, 7, 5), (2, 5, 11), (3, 6, 6), (4, 8, 4))),
    ),
    Model("decoder", _make(Decoder), _sequences, _LENGTHS),
    Model(
        "training_step",
        _make(TrainingStep),
        _labelled,
        ({"N": 1}, {"N": 2}, {"N": 5}, {"N": 16}, {"N": 64}),
        {"labels": (0, 6)},
        train=True,
    ),
)

MODELS: dict[str, Model] = {model.name: model for model in _ZOO}
"""The zoo by name."""


@functools.cache
def graph_of(name: str) -> Graph:
    """Return the imported program of a model, imported once per process."""
    from mlsysopt.graph.importers import from_torch

    model = MODELS[name]
    return from_torch(model.make(), model.inputs(), train=model.train)


@functools.cache
def _exact(name: str) -> nn.Module:
    return MODELS[name].make().double()


def truth(name: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Return what the model itself computes in float64, by output name: its outputs, or loss and gradients."""
    module = _exact(name)
    if MODELS[name].train:
        module.zero_grad()
        loss = module(*tensors.values())
        loss.backward()
        found = {f"grad_{label.replace('.', '_')}": part.grad for label, part in module.named_parameters()}
        return {"loss": loss.detach().numpy(), **{label: grad.numpy() for label, grad in found.items()}}
    with torch.no_grad():
        made = module(*tensors.values())
    outputs = {"out": made} if isinstance(made, torch.Tensor) else dict(made)
    return {label: value.numpy() for label, value in outputs.items()}
