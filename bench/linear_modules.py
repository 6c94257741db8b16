"""Modules of all kinds for `bench.linear_generality`: name -> what makes one, and its inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(300, 160)
        self.inner = nn.Linear(160, 160)
        self.head = nn.Linear(160, 300, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.inner(self.words(ids))))


class Lora(nn.Module):
    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(256, 256) / 16)
        self.first, self.last = nn.Linear(256, 256), nn.Linear(256, 256)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(F.linear(self.first(x), self.w) @ self.w))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(160, 160, proj_size=128, batch_first=True)
        self.head = nn.Linear(128, 160)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0])


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.spectral_norm(nn.Linear(192, 192))
        self.last = nn.Linear(192, 192)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.gelu(self.first(x)))


class Translator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Transformer(128, 4, 1, 1, 256, batch_first=True)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.body(x, y)


def _transformer(config: str, model: str) -> tuple[nn.Module, Any]:
    import transformers

    sizes = {
        "vocab_size": 200, "hidden_size": 128, "embedding_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 256,
    }  # fmt: skip
    if config == "DistilBertConfig":
        sizes = {"vocab_size": 200, "dim": 128, "n_layers": 2, "n_heads": 4, "hidden_dim": 256}
    if config == "GPT2Config":
        sizes = {"vocab_size": 200, "n_embd": 128, "n_layer": 2, "n_head": 4}
    made = getattr(transformers, model)(getattr(transformers, config)(**sizes))
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, 6:] = 0
    return made, {"input_ids": torch.randint(5, 200, (2, 9)), "attention_mask": mask}


_ENCODER: dict[str, Any] = {"d_model": 128, "nhead": 4, "dim_feedforward": 256, "batch_first": True}

MODULES: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "mlp": lambda: (
        nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 256), nn.LayerNorm(256)),
        (torch.randn(3, 7, 256),),
    ),
    "bert": lambda: _transformer("BertConfig", "BertModel"),
    "roberta": lambda: _transformer("RobertaConfig", "RobertaModel"),
    "distilbert": lambda: _transformer("DistilBertConfig", "DistilBertModel"),
    "electra": lambda: _transformer("ElectraConfig", "ElectraModel"),
    "gpt2": lambda: _transformer("GPT2Config", "GPT2Model"),
    "nn.TransformerEncoder": lambda: (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(**_ENCODER), 2),
        (torch.randn(2, 9, 128),),
    ),
    "nn.Transformer": lambda: (Translator(), (torch.randn(2, 9, 128), torch.randn(2, 5, 128))),
    "nn.LSTM": lambda: (Recurrent(), (torch.randn(2, 9, 160),)),
    "tied weights": lambda: (Tied(), (torch.randint(0, 300, (2, 9)),)),
    "LoRA": lambda: (
        nn.Sequential(Lora(nn.Linear(256, 256), 8), nn.ReLU(), nn.Linear(256, 256)),
        (torch.randn(3, 7, 256),),
    ),
    "functional product": lambda: (Functional(), (torch.randn(3, 7, 256),)),
    "spectral norm": lambda: (Normed(), (torch.randn(2, 192),)),
}
