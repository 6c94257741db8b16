"""From selectors to components, and what the proofs say about each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlsysopt.core.errors import StudyError
from mlsysopt.design.ablate.batches import two_batches
from mlsysopt.design.ablate.deltas import Component
from mlsysopt.design.ablate.plan import PlanRow
from mlsysopt.design.ablate.streams import seeded

if TYPE_CHECKING:
    from mlsysopt.design.ablate.builder import Study
    from mlsysopt.design.ablate.proofs import Subject
    from mlsysopt.design.ablate.surgery import Replaced

__all__ = ["Proving"]


class Proving:
    """The base model of a study and what can be proven on it before anything trains.

    Args:
        study: Its maker, data and batch are used; nothing of it is changed.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self._model: Any = None
        self._subject: Subject | None = None

    def model(self) -> Any:
        """Return the base model, built under seed 0."""
        if self._model is None:
            # Before the seed is set: a maker that imports torch inside would otherwise draw from an unseeded stream.
            import torch

            from mlsysopt.design.ablate.select import unwrapped

            with seeded(0):
                model = self.study.make_model()
            if not isinstance(model, torch.nn.Module):
                raise StudyError(
                    f"modules(...): make_model returned a {type(model).__name__}, not a torch.nn.Module\n"
                    "take features, options or data away instead"
                )
            self._model = unwrapped(model)
        return self._model

    def subject(self) -> Subject:
        """Return what the proofs are made on: built, probed and run once for all components."""
        from mlsysopt.design.ablate.proofs import Subject

        if self._subject is None:
            first, second = two_batches(self.study.given, self.study.batch)
            self._subject = Subject(self.study.make_model, first, second_batch=second, seed=0)
        return self._subject

    def listing(self) -> tuple[str, ...]:
        """Return the paths of all modules, where the model has been built."""
        return tuple(path for path, _ in self._model.named_modules() if path) if self._model is not None else ()

    def components(self, selectors: Sequence[Any], groups: Mapping[str, Any], how: str) -> list[Component]:
        """Resolve module selectors; each match is one component, each group is one."""
        self.model()
        from mlsysopt.design.ablate import select
        from mlsysopt.design.ablate.standins import HOWS

        if how not in HOWS:
            from mlsysopt.core.errors import near_misses

            raise StudyError(f"modules(replace={how!r}): {near_misses(how, HOWS, noun='way')}")
        found: list[Component] = []
        for selector in selectors:
            grouped = isinstance(selector, list | tuple)
            for part in select.match(self.model(), selector, group=grouped):
                found.append(_component(part.name, part.paths, how))
        for name, selector in groups.items():
            for part in select.match(self.model(), selector, group=True):
                found.append(_component(name, part.paths, how))
        return found

    def row(self, component: Component) -> tuple[PlanRow, str]:
        """Prove that a component can be taken away; return what that does, and why it is refused if it is."""
        if component.kind != "modules":
            return PlanRow(component.name, component.kind, _words(component), notes=_note(component)), ""
        from mlsysopt.design.ablate.select import Part

        part = Part(component.name, tuple(component.delta["paths"]))
        proof = self.subject().prove(part, how=component.delta["how"])
        if not proof.ok or proof.removal is None:
            if proof.refusal is not None:
                where = f" ({proof.refusal.where})" if proof.refusal.where else ""
                return _empty(component), f"{proof.refusal.reason}{where}"
            return _empty(component), "; ".join(str(finding) for finding in proof.findings if finding.failed)
        return (
            PlanRow(
                component.name, "modules", _stands_in(proof.removal.replaced),
                parameters=_change(proof.parameters), macs=_change(proof.macs),
                adapters=tuple(f"{one.path}: {one.words}" for one in proof.removal.replaced if one.words),
                silences=tuple(proof.collateral),
                notes=(*_note(component), *(str(finding) for finding in proof.findings)),
            ),
            "",
        )  # fmt: skip


def _stands_in(replaced: Sequence[Replaced]) -> str:
    kinds = ", ".join(dict.fromkeys(one.kind for one in replaced))
    places = replaced[0].path if len(replaced) == 1 else f"{len(replaced)} places"
    return f"{places} -> {kinds}"


def _component(name: str, paths: Sequence[str], how: str) -> Component:
    shown = name if how == "auto" else f"{name} [{how}]"
    return Component(shown, "modules", {"paths": list(paths), "how": how})


def _empty(component: Component) -> PlanRow:
    return PlanRow(component.name, component.kind, _words(component))


def _note(component: Component) -> tuple[str, ...]:
    return (component.note,) if component.note else ()


def _words(component: Component) -> str:
    delta = component.delta
    if component.kind == "features":
        return f"{delta['how']} of {', '.join(map(str, delta['features']))}"
    if component.kind == "option":
        return f"{delta['name']} = {delta['value']!r}"
    if component.kind == "data":
        return f"{delta['fraction']:.0%} of the training rows"
    return "another model" if component.kind == "variant" else ", ".join(delta["paths"])


def _change(before_after: tuple[float, float]) -> float | None:
    before, after = before_after
    return (after - before) / before if before else None
