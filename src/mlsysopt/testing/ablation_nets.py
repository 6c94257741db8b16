"""Six small networks of six families, as people write them, with inputs: what can be taken out of them is tested.

Needs torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "NETS",
    "GraphNet",
    "InceptionNet",
    "MixerNet",
    "Net",
    "ResidualNet",
    "Tagger",
    "TransformerNet",
]


class ResidualBlock(nn.Module):
    """Two convolutions on a branch; the first may halve the image."""

    def __init__(self, given: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(given, width, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module | None = None
        if stride != 1 or given != width:
            self.shortcut = nn.Sequential(nn.Conv2d(given, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        return F.relu(out + (x if self.shortcut is None else self.shortcut(x)))


class ResidualNet(nn.Module):
    """A residual network for small images."""

    def __init__(self, width: int = 8, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(
            ResidualBlock(width, width), ResidualBlock(width, 2 * width, stride=2), ResidualBlock(2 * width, 2 * width)
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        return self.head(self.drop(self.pool(self.blocks(x)).flatten(1)))


def convolution(given: int, width: int, size: int) -> nn.Sequential:
    """Return convolution, norm and activation."""
    return nn.Sequential(nn.Conv2d(given, width, size, padding=size // 2, bias=False), nn.BatchNorm2d(width), nn.ReLU())


class Inception(nn.Module):
    """Four branches, joined by their channels."""

    def __init__(self, given: int, width: int) -> None:
        super().__init__()
        self.one = convolution(given, width, 1)
        self.three = nn.Sequential(convolution(given, width, 1), convolution(width, width, 3))
        self.five = nn.Sequential(convolution(given, width // 2, 1), convolution(width // 2, width, 5))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), convolution(given, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pooled(x)], dim=1)


class InceptionNet(nn.Module):
    """Two blocks of four branches."""

    def __init__(self, width: int = 4, classes: int = 5) -> None:
        super().__init__()
        self.stem = convolution(3, 2 * width, 3)
        self.reduce = nn.MaxPool2d(2)
        self.mixed = nn.ModuleList([Inception(2 * width, width), Inception(4 * width, width)])
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(self.stem(x))
        for block in self.mixed:
            x = block(x)
        return self.head(self.drop(x.mean(dim=(2, 3))))


class TransformerNet(nn.Module):
    """Token and position tables, encoder layers of torch, a head on the mean."""

    def __init__(self, words: int = 40, width: int = 16, heads: int = 2, layers: int = 2, classes: int = 3) -> None:
        super().__init__()
        self.tokens = nn.Embedding(words, width)
        self.positions = nn.Embedding(32, width)
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, words: Tensor) -> Tensor:
        places = torch.arange(words.shape[1], device=words.device)
        x = self.tokens(words) + self.positions(places)
        return self.head(self.norm(self.encoder(x)).mean(dim=1))


class Tagger(nn.Module):
    """One tag per word: embedding, two recurrent layers, a projection; the last state opens a gate."""

    def __init__(self, words: int = 50, width: int = 12, tags: int = 6) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.drop = nn.Dropout(0.1)
        self.forth = nn.GRU(width, width, batch_first=True)
        self.both = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.gate = nn.Sequential(nn.Linear(width, 2 * width), nn.Sigmoid())
        self.project = nn.Sequential(nn.Linear(2 * width, width), nn.Tanh())
        self.head = nn.Linear(width, tags)

    def forward(self, words: Tensor) -> Tensor:
        x, last = self.forth(self.drop(self.embed(words)))
        out, _ = self.both(x)
        out = out * self.gate(last[-1])[:, None]
        return self.head(self.project(out) + x)


class MixerBlock(nn.Module):
    """Mixes places, then channels, each on a residual branch."""

    def __init__(self, places: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.places = nn.Sequential(nn.Linear(places, 2 * places), nn.GELU(), nn.Linear(2 * places, places))
        self.channels = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.places(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class MixerNet(nn.Module):
    """An MLP-mixer on patches of an image."""

    def __init__(self, width: int = 12, blocks: int = 2, classes: int = 10) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, stride=4)
        self.blocks = nn.Sequential(*[MixerBlock(16, width) for _ in range(blocks)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(dim=1))


class GraphLayer(nn.Module):
    """Mean of the neighbours, mapped; weights of its own, as graph code often has."""

    def __init__(self, given: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(given, width) / given**0.5)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return edges @ (x @ self.weight) + self.bias


class GraphNet(nn.Module):
    """A graph network for the classes of nodes; `edges` is the normalised adjacency matrix."""

    def __init__(self, given: int = 9, width: int = 12, classes: int = 4) -> None:
        super().__init__()
        self.encode = nn.Linear(given, width)
        self.layers = nn.ModuleList([GraphLayer(width, width), GraphLayer(width, width)])
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.drop = nn.Dropout(0.2)
        self.narrow = GraphLayer(width, width // 2)
        self.head = nn.Linear(width // 2, classes)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x = F.relu(self.encode(x))
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + self.drop(F.relu(layer(norm(x), edges)))
        return F.log_softmax(self.head(F.relu(self.narrow(x, edges))), dim=-1)


@dataclass(frozen=True, slots=True)
class Net:
    """One network and what it is called with.

    Attributes:
        make: Builds it.
        batch: Size -> one batch: examples, or nodes of a graph.
        longer: Size -> a batch of longer sequences or larger images, None where the network has one size.
    """

    make: Callable[[], nn.Module]
    batch: Callable[[int], Any]
    longer: Callable[[int], Any] | None = None


def _drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape)))


def _words(rows: int, length: int, words: int) -> Tensor:
    return torch.randint(words, (rows, length), generator=torch.Generator().manual_seed(rows + length))


def _graph(nodes: int) -> tuple[Tensor, Tensor]:
    edges = (_drawn(nodes, nodes) > 0.6).float()
    edges = ((edges + edges.T) > 0).float() + torch.eye(nodes)
    return _drawn(nodes, 9), edges / edges.sum(dim=1, keepdim=True)


NETS: Mapping[str, Net] = {
    "residual": Net(ResidualNet, lambda n: _drawn(n, 1, 16, 16), lambda n: _drawn(n, 1, 24, 24)),
    "inception": Net(InceptionNet, lambda n: _drawn(n, 3, 16, 16), lambda n: _drawn(n, 3, 20, 20)),
    "transformer": Net(TransformerNet, lambda n: _words(n, 11, 40), lambda n: _words(n, 17, 40)),
    "tagger": Net(Tagger, lambda n: _words(n, 9, 50), lambda n: _words(n, 14, 50)),
    "mixer": Net(MixerNet, lambda n: _drawn(n, 1, 16, 16)),
    "graph": Net(GraphNet, _graph),
}
