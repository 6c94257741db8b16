"""Models for `mlsysopt linear bench`: known ones with random weights, or a function of the user's."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlsysopt.core.errors import MissingExtra, MlsysoptError, UsageError, near_misses
from mlsysopt.core.plugins import module_at

if TYPE_CHECKING:
    from torch import nn

__all__ = ["KNOWN", "Loaded", "load"]

# Class of the configuration and of the model, settings, and how many tensors a call takes.
KNOWN: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "bert-base": ("BertConfig", "BertModel", {}, 2),
    "bert-large": (
        "BertConfig",
        "BertModel",
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
        2,
    ),
    "distilbert": ("DistilBertConfig", "DistilBertModel", {}, 2),
    "gpt2": ("GPT2Config", "GPT2Model", {"use_cache": False}, 1),
    "minilm": (
        "BertConfig",
        "BertModel",
        {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
        2,
    ),
}


@dataclass(frozen=True)
class Loaded:
    """A model and its inputs.

    Attributes:
        name: As it was asked for.
        model: In evaluation mode.
        inputs: Length -> positional arguments of a call.
        most: Largest length, None for no limit.
    """

    name: str
    model: nn.Module
    inputs: Callable[[int], tuple[Any, ...]]
    most: int | None = None


def load(text: str, *, seed: int = 0) -> Loaded:
    """Return a model by name, or what `FILE.py:NAME` or `MODULE:NAME` returns: a module, and its inputs by length.

    Args:
        text: As above.
        seed: Of the weights of a known model, and of its inputs.

    Raises:
        UsageError: no such model, or a function that returns something else.
        MissingExtra: known models need transformers.
    """
    if text in KNOWN:
        return _known(text, seed)
    if text.endswith(".pt2"):
        raise UsageError(
            f"{text} is an exported program, whose products are no modules: mlsysopt compile bench {text} runs it, "
            f"mlsysopt linear report --model {text} --at NAME=SIZE shows its tables"
        )
    where, colon, name = text.rpartition(":")
    if not colon or not where:
        raise UsageError(
            f"model {text!r}: {near_misses(text, KNOWN, noun='model')}, or FILE.py:NAME of a function "
            "that returns a module and a function from a length to its inputs"
        )
    return _own(text, where, name)


def _known(text: str, seed: int) -> Loaded:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingExtra(
            f"model {text!r} needs transformers and torch: pip install 'mlsysopt[compile]' transformers"
        ) from error
    config_name, model_name, settings, operands = KNOWN[text]
    torch.manual_seed(seed)
    config = getattr(transformers, config_name)(**settings)
    model = getattr(transformers, model_name)(config).eval()

    def inputs(length: int) -> tuple[Any, ...]:
        drawn = torch.Generator().manual_seed(seed + length)
        ids = torch.randint(0, config.vocab_size, (1, length), generator=drawn)
        return (ids, torch.ones_like(ids))[:operands]

    return Loaded(text, model, inputs, int(config.max_position_embeddings))


def _own(text: str, where: str, name: str) -> Loaded:
    from torch import nn

    path = Path(where)
    if path.suffix == ".py" and not path.is_file():
        raise UsageError(f"model {text!r}: there is no file {where}")
    try:
        module = (
            module_at(path.resolve(), f"mlsysopt_model_{path.stem}")
            if path.suffix == ".py"
            else importlib.import_module(where)
        )
        made = getattr(module, name)()
    except MlsysoptError:
        raise
    except Exception as error:
        raise UsageError(f"model {text!r}: {type(error).__name__}: {error}") from error
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module) and callable(made[1])):
        raise UsageError(
            f"model {text!r}: {name}() must return a module and a function from a length to a tuple of inputs, "
            f"got {type(made).__name__}"
        )
    inputs: Any = made[1]
    return Loaded(name, made[0].eval(), inputs)
