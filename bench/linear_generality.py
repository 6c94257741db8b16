"""Twelve modules of all kinds live on after `adapt`: `python -m bench.linear_generality`. Bar compile-linear.6.

For each: outputs equal, keys and bits of the state dict the same before and after, `restore` exact, saved and loaded,
copied, and a training step that ends where the plain model's ends.
"""

from __future__ import annotations

import argparse
import copy
import io
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.linear_cells import host
from bench.protocol import Bench
from mlsysopt.compile.linear import adapt, plan_of, restore
from mlsysopt.compile.variants.machine import MachineProfile

if TYPE_CHECKING:
    from torch import Tensor, nn

TOLERANCE = 2e-4  # of normalised outputs, in other orders of adding
MEMORIES = ("0x", "2x")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.linear_generality", description=__doc__)
    parser.add_argument("--only", help="one module by name; then nothing is written")
    given = parser.parse_args(arguments)
    if find_spec("transformers") is None:
        print("bench.linear_generality: transformers is missing; nothing was measured", file=sys.stderr)
        return 3
    import torch

    torch.set_num_threads(1)
    bench = Bench(
        "linear_generality",
        "any module lives on after adapt as if nothing had happened, and restore takes everything back",
        f"torch {torch.__version__}: the same modules, plain",
        f"{host()[1]}; generated kernels wherever they can run, with and without the original form of the weights",
    )
    from bench.linear_modules import MODULES

    modules = {name: make for name, make in MODULES.items() if given.only in (None, name)}
    failed: list[str] = []
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory(prefix="linear-generality-") as folder:
        machine = MachineProfile.open(Path(folder) / "machine.db")
        for name, make in modules.items():
            for memory in MEMORIES:
                found = _lived_on(make, memory, machine)
                bench.round(module=name, memory=memory, **found)
                wrong = [check for check, fine in found["checks"].items() if not fine]
                failed += [f"{name} at {memory}: {check}" for check in wrong]
                rows.append(
                    [name, memory, found["adapted"], found["products"], f"{found['difference']:.1e}",
                     ", ".join(wrong) or "all equal"]
                )  # fmt: skip
        machine.close()
    bench.table(["module", "memory", "adapted", "products", "max |difference|", "verdict"], rows)
    for line in failed:
        print(line)
    touched = sum(row[2] != 0 for row in rows)
    bench.bar("compile-linear.6a", len(modules), ">=", 12, about="modules")
    bench.bar("compile-linear.6b", len(failed), "==", 0, about="checks failed")
    bench.bar(
        "compile-linear.6c",
        touched / len(rows),
        ">=",
        0.9,
        must=False,
        about="share of runs in which something changed",
    )
    bench.headline = f"{len(modules)} kinds of modules live on after adapt, {len(failed)} checks failed"
    return bench.finish(write=given.only is None)


def _lived_on(make: Callable[[], tuple[nn.Module, Any]], memory: str, machine: MachineProfile) -> dict[str, Any]:
    import torch

    torch.manual_seed(0)
    plain, inputs = make()
    plain.eval()
    model = copy.deepcopy(plain)
    wanted, state = _run(plain, inputs), {name: one.clone() for name, one in plain.state_dict().items()}
    adapt(model, policy="panel.f32", max_extra_memory=memory, profile=machine)
    checks: dict[str, bool] = {}
    apart = [_apart(_run(model, inputs), wanted)]
    checks["state dict"] = _same_state(model, state)
    checks["again"] = torch.equal(_run(model, inputs), _run(model, inputs))
    apart.append(_apart(_run(copy.deepcopy(model), inputs), wanted))
    if _can_be_saved(plain):
        apart.append(_apart(_run(_round_trip(model), inputs), wanted))
    fresh = make()[0].eval()
    fresh.load_state_dict(model.state_dict())
    checks["loaded into a plain one"] = torch.equal(_run(fresh, inputs), wanted)
    twin = copy.deepcopy(plain)
    for one in (model, twin):
        _step(one, inputs)
    checks["training step"] = _same_state(model, twin.state_dict())
    apart.append(_apart(_run(model, inputs), _run(twin, inputs)))
    model.load_state_dict(state)
    apart += [_apart(_run(model, inputs), wanted) for _ in range(3)]
    found = plan_of(model)
    restore(model)
    checks["restore"] = all(
        type(one) is type(other) and one.__dict__.keys() == other.__dict__.keys()
        for one, other in zip(model.modules(), plain.modules(), strict=True)
    ) and torch.equal(_run(model, inputs), wanted)
    checks["outputs"] = max(apart) <= TOLERANCE
    products = sum(one.count for one in found.products)
    adapted = sum(one.count for one in found.products if one.changed)
    return {"checks": checks, "difference": max(apart), "products": products, "adapted": adapted}


def _run(model: nn.Module, inputs: Any) -> Tensor:
    import torch

    with torch.inference_mode():
        return _tensor(model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)).clone()


def _tensor(found: Any) -> Tensor:
    if hasattr(found, "last_hidden_state"):
        return found.last_hidden_state
    if hasattr(found, "logits"):
        return found.logits
    return found[0] if isinstance(found, tuple) else found


def _apart(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max())


def _same_state(model: nn.Module, state: Mapping[str, Tensor]) -> bool:
    import torch

    now = model.state_dict()
    return list(now) == list(state) and all(torch.equal(now[name], one) for name, one in state.items())


def _can_be_saved(model: nn.Module) -> bool:
    """Tell whether torch saves a whole module of this kind; parametrized ones it does not."""
    try:
        _round_trip(model)
    except RuntimeError:
        return False
    return True


def _round_trip(model: nn.Module) -> nn.Module:
    import torch

    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def _step(model: nn.Module, inputs: Any) -> None:
    """Train one step, with the same dropout in every model."""
    import torch

    model.train()
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    out = model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)
    _tensor(out).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    model.eval()


if __name__ == "__main__":
    raise SystemExit(main())
