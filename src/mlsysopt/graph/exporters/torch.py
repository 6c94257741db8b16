"""Programs as modules of PyTorch."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from mlsysopt.core.errors import MissingExtra
from mlsysopt.graph.ir import Graph

if TYPE_CHECKING:
    from torch import nn

__all__ = ["to_torch"]


def to_torch(graph: Graph, *, trainable: bool = False) -> nn.Module:
    """Return a module that computes what the program says.

    Constants of floats are its parameters, other constants its buffers, under their names in the
    program. `forward` takes the inputs by name or in their order, of any sizes that the declared
    shapes and facts allow, and returns a tensor, or a dict by output name when there are several.
    The module may be traced again: `from_torch(to_torch(g), ...)` has the same meaning.

    Args:
        graph: The program.
        trainable: Whether parameters need gradients. They are copies then; otherwise they share
            memory with the model that the program came from, where there is one.

    Raises:
        GraphError: an op that has no form in torch, such as one that talks to other devices.
        WeightsError: weights that are missing or damaged.
        MissingExtra: torch is not installed.
    """
    if find_spec("torch") is None:
        raise MissingExtra.of("exporting to PyTorch", "graph")
    from mlsysopt.graph.exporters.torch_module import Program

    return Program(graph, trainable=trainable)
