"""Random spaces, for properties that every space must have."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from mlsysopt.core.errors import SpaceError
from mlsysopt.core.space import Bool, Choice, Float, Int, Parameter, Permutation, Space

KiB, MiB = 1024, 1024**2

_RULES = (
    "{0} <= {1}",
    "{0} + {1} <= {n}",
    "{0} * max(2, {1}) <= {n}",
    "{0} <= {1} <= {2}",
    "{0} + {1} * max(2, {2}) <= {n}",
    "{0} < max({n}, {1})",
    "not {0} > {1} or {2} < {n}",
    "abs({0} - {1}) <= {n}",
)


@st.composite
def parameters(draw: st.DrawFn, name: str) -> Parameter:
    kind = draw(
        st.sampled_from(["int", "log int", "bytes", "step", "float", "log float", "grid", "bool", "choice", "order"])
    )
    match kind:
        case "int":
            low = draw(st.integers(-20, 20))
            return Int(name, low, low + draw(st.integers(1, 50)))
        case "log int":
            special = draw(st.sampled_from([(), (0,), (-1,), (-1, 0), (5000,)]))
            return Int(name, 1, draw(st.integers(2, 4096)), log=True, special=special)
        case "bytes":
            return Int(name, draw(st.sampled_from([512, 64 * KiB, MiB])), draw(st.sampled_from([2 * MiB, 256 * MiB])),
                       log=True, unit="B")  # fmt: skip
        case "step":
            return Int(name, 0, draw(st.integers(6, 40)), step=draw(st.integers(2, 6)))
        case "float":
            low = draw(st.floats(-100, 100))
            return Float(name, low, low + draw(st.floats(0.1, 100)))
        case "log float":
            return Float(name, 1e-6, draw(st.floats(1e-3, 1e3)), log=True, special=draw(st.sampled_from([(), (0.0,)])))
        case "grid":
            return Float(name, 0.0, draw(st.sampled_from([1.0, 2.5])), step=draw(st.sampled_from([0.1, 0.25, 0.3])))
        case "bool":
            return Bool(name, default=draw(st.booleans()))
        case "choice":
            return Choice(name, draw(st.sampled_from([("u", "v", "w"), (1, 2, 8), ("x", 3, 0.5)])))
        case _:
            return Permutation(name, draw(st.integers(1, 5)))


@st.composite
def spaces(draw: st.DrawFn, *, ruled: bool = True) -> Space:
    """Draw a space of one to eight parameters; rules that its default breaks are left out."""
    names = [f"p{i}" for i in range(draw(st.integers(1, 8)))]
    space = Space([draw(parameters(name)) for name in names])
    numeric = [one.name for one in space if isinstance(one, Int | Float)]
    switches = [one.name for one in space if isinstance(one, Bool)]
    if switches and draw(st.booleans()):
        others = [name for name in names if name not in switches]
        for name in draw(st.lists(st.sampled_from(others), max_size=2, unique=True)) if others else ():
            space = space.when(name, draw(st.sampled_from(switches)))
    for rule in draw(st.lists(st.sampled_from(_RULES), max_size=3)) if ruled and len(numeric) >= 3 else ():
        chosen = draw(st.permutations(numeric))[:3]
        try:
            space = space.require(rule.format(*chosen, n=draw(st.sampled_from([10, 100, 10**6, 300 * MiB]))))
        except SpaceError:
            continue
    return space


def configs(space: Space) -> st.SearchStrategy[dict[str, Any]]:
    """Draw any configuration that the grid of a space allows, whether valid or not."""
    return st.lists(st.floats(0.0, 1.0), min_size=space.dims(), max_size=space.dims()).map(space.decode)
