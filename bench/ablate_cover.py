"""How much of six networks can be taken out, and is what seems to be out really out?"""

from __future__ import annotations

import argparse
import copy
from collections import Counter
from typing import Any

import torch
from torch import nn

from bench.ablate_mutants import CONTROLS, MUTANTS, is_told, outcome
from bench.protocol import Bench
from mlsysopt.core.errors import MlsysoptError, UsageError
from mlsysopt.design.ablate.probe import Probe, call_model, leaves, probe, slow_paths
from mlsysopt.design.ablate.proofs import Proof, Subject
from mlsysopt.design.ablate.select import Part, paths_of
from mlsysopt.design.ablate.surgery import put, remove
from mlsysopt.testing.ablation_nets import NETS, Net

FIRST, SECOND = 8, 5
BREAKS = (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError, NotImplementedError, MlsysoptError)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two networks, nothing written")
    given = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(
        "ablate_cover",
        "almost every module of six families of networks can be taken out; what only seems to be out is told",
        f"torch.nn.Identity put in place of the module (torch {torch.__version__})",
        f"every submodule but heads, `auto`, six proofs, then forward and backward with {FIRST} and {SECOND} examples",
    )
    totals: Counter[str] = Counter()
    worst, reasons, rows = 0.0, True, []
    for name, net in list(NETS.items())[: 2 if given.quick else None]:
        found = covered(bench, name, net)
        totals.update({key: value for key, value in found.items() if isinstance(value, int)})
        worst, reasons = max(worst, found["worst"]), reasons and found["reasons"]
        rows.append(
            [name, found["modules"], found["heads"], found["plain"], found["auto"], found["longer"], found["matched"],
             f"{100 * found['worst']:.1f} %"]
        )  # fmt: skip
    rows.append(["all", *(totals[key] for key in ("modules", "heads", "plain", "auto", "longer", "matched")), ""])
    bench.table(["network", "modules", "heads", "Identity", "auto", "other sizes", "matched", "worst match"], rows)
    told = judged(bench, "mutant", MUTANTS)
    quiet = judged(bench, "control", CONTROLS)
    share = totals["auto"] / totals["modules"]
    bench.headline = (
        f"{totals['auto']} of {totals['modules']} modules of six networks can be taken out with six proofs; "
        f"Identity runs for {totals['plain']}; {told} of {len(MUTANTS)} sham removals told"
    )
    bench.bar("design-ablate.4a", share, ">=", 0.95, about="share of modules taken out by auto")
    bench.bar("design-ablate.4b", float(reasons), "==", 1, about="every refusal says why")
    bench.bar("design-ablate.4c", worst, "<=", 0.05, about="matched: difference in parameters")
    bench.bar("design-ablate.4d", told, "==", len(MUTANTS), about="sham removals told, for the right reason")
    bench.bar("design-ablate.4e", quiet, "==", 0, about="sound removals refused or warned of")
    bench.bar("design-ablate.4f", len(MUTANTS), ">=", 40, about="sham removals tried")
    return bench.finish(write=not given.quick)


def covered(bench: Bench, name: str, net: Net) -> dict[str, Any]:
    """Try every module of one network."""
    found: Counter[str] = Counter()
    worst, reasons = 0.0, True
    subject = Subject(net.make, net.batch(FIRST), second_batch=net.batch(SECOND))
    torch.manual_seed(0)
    base = net.make()
    seen = probe(base, net.batch(FIRST), second_batch=net.batch(SECOND))
    for path, paths in paths_of(base).items():
        if path != paths[0]:
            continue
        if path in seen.seen and seen.seen[path].gives_output:
            found["heads"] += 1
            continue
        part = Part(path, paths)
        proof = proven(subject, part, "auto")
        out = isinstance(proof, Proof) and proof.ok and runs(net, without(base, part, "auto", seen), (FIRST, SECOND))
        plain = runs(net, swapped(base, path), (FIRST, SECOND))
        longer = out and (net.longer is None or runs(net, without(base, part, "auto", seen), (3,), longer=True))
        matched = proven(subject, part, "matched")
        wanted = sum(one.numel() for one in base.get_submodule(path).parameters())
        off = 0.0
        if isinstance(matched, Proof) and matched.ok and matched.removal is not None:
            found["matched"] += 1
            off = abs(matched.removal.parameters) / wanted
        worst = max(worst, off)
        why = reason(proof)
        reasons = reasons and (out or bool(why)) and bool(reason(matched) or off <= 1)
        found["modules"] += 1
        found.update(auto=int(out), plain=int(plain), longer=int(longer))
        bench.round(
            network=name, path=path, kind=type(base.get_submodule(path)).__name__, auto=out, plain=plain, longer=longer,
            stands=list(proof.removal.adapters) if isinstance(proof, Proof) and proof.removal else [], why=why,
            matched_off=off, matched_why=reason(matched),
            silences=list(proof.collateral) if isinstance(proof, Proof) else [],
        )  # fmt: skip
        if not out:
            print(f"{name} {path}: {why}")
    return {key: found[key] for key in ("modules", "heads", "plain", "auto", "longer", "matched")} | {
        "worst": worst,
        "reasons": reasons,
    }


def proven(subject: Subject, part: Part, how: str) -> Proof | UsageError:
    try:
        return subject.prove(part, how=how)
    except UsageError as error:
        return error


def reason(proof: Proof | UsageError) -> str:
    """Return why something was not taken out, "" when it was."""
    if isinstance(proof, UsageError):
        return str(proof)
    if proof.refusal is not None:
        return str(proof.refusal)
    return "; ".join(str(one) for one in proof.findings if one.failed)


def without(base: nn.Module, part: Part, how: str, seen: Probe) -> nn.Module:
    model = copy.deepcopy(base)
    remove(model, part, how=how, probe=seen)
    return model


def swapped(base: nn.Module, path: str) -> nn.Module:
    model = copy.deepcopy(base)
    put(model, path, nn.Identity())
    return model


def runs(net: Net, model: nn.Module, sizes: tuple[int, ...], *, longer: bool = False) -> bool:
    """Whether forward and backward run and give what the whole network gives, in shape, finite."""
    for size in sizes:
        batch = net.longer(size) if longer and net.longer is not None else net.batch(size)
        with slow_paths():
            wanted = [tuple(tensor.shape) for tensor in leaves(call_model(net.make(), batch))]
            try:
                given = leaves(call_model(model.train(), batch))
                if [tuple(tensor.shape) for tensor in given] != wanted:
                    return False
                torch.stack([tensor.square().sum() for tensor in given]).sum().backward()
            except BREAKS:
                return False
        gradients = [one.grad for one in model.parameters() if one.grad is not None]
        if not gradients or not all(bool(torch.isfinite(one).all()) for one in (*given, *gradients)):
            return False
    return True


def judged(bench: Bench, kind: str, cases: Any) -> int:
    """Run cases; return how many were refused or warned of, sham ones for the right reason."""
    told = 0
    for name, case in cases.items():
        word, why = outcome(case)
        right = is_told(name, word, why) if kind == "mutant" else word != "accepted"
        told += right
        bench.round(kind=kind, name=name, outcome=word, told=right, why=why)
        print(f"{kind:8} {word:9} {name}: {why.splitlines()[0] if why else ''}")
    print(flush=True)
    return told


if __name__ == "__main__":
    raise SystemExit(main())
