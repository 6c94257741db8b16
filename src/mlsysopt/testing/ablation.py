"""The contract of taking parts out of a model: inherit `AblationContract`, name the model, run pytest.

Every component changes the model, or is refused with a reason. Needs torch and pytest.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from mlsysopt.core.errors import UsageError
from mlsysopt.design.ablate import features
from mlsysopt.design.ablate.probe import Probe, call_model, leaves, probe, slow_paths
from mlsysopt.design.ablate.proofs import Proof, Subject
from mlsysopt.design.ablate.select import Part, match, paths_of
from mlsysopt.design.ablate.standins import HOWS
from mlsysopt.design.ablate.surgery import remove

__all__ = ["AblationContract"]


class AblationContract:
    """What a study relies on; a subclass implements `make_model` and `batch`, as static methods.

    A subclass may override `other_batch` (longer sequences, larger images) where the model takes them.

    Attributes:
        hows: Ways that are tried on every module.
    """

    hows: ClassVar[tuple[str, ...]] = HOWS

    @staticmethod
    def make_model() -> nn.Module:
        """Return a new model; the caller has set the seed."""
        raise AssertionError("a subclass of AblationContract defines make_model")

    @staticmethod
    def batch(size: int) -> Any:
        """Return an input with so many examples."""
        raise AssertionError("a subclass of AblationContract defines batch")

    @staticmethod
    def other_batch(size: int) -> Any:
        """Return an input with other sizes beside the batch's, None where there is none."""
        return None

    @classmethod
    def built(cls, seed: int = 0) -> nn.Module:
        """Return the model built under a seed."""
        torch.manual_seed(seed)
        return cls.make_model()

    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls) -> Subject:
        """Return the base model and its proofs."""
        return Subject(cls.make_model, cls.batch(8), second_batch=cls.batch(5))

    @pytest.fixture(scope="class")
    @classmethod
    def seen(cls) -> Probe:
        """Return the probe that a training uses, in single precision."""
        return probe(cls.built(), cls.batch(8), second_batch=cls.batch(5))

    @pytest.fixture(scope="class")
    @classmethod
    def proofs(cls, subject: Subject) -> dict[tuple[str, str], Proof | UsageError]:
        """Say of every module and every way whether it can be taken out."""
        found: dict[tuple[str, str], Proof | UsageError] = {}
        for path in paths_of(subject.model):
            for how in cls.hows:
                try:
                    found[path, how] = subject.prove(Part(path, paths_of(subject.model)[path]), how=how)
                except UsageError as error:
                    found[path, how] = error
        return found

    def test_every_module_changes_the_model_or_is_refused_with_a_reason(
        self, proofs: dict[tuple[str, str], Proof | UsageError]
    ) -> None:
        assert proofs
        for (path, how), proof in proofs.items():
            if isinstance(proof, UsageError):
                assert path in str(proof)
            elif proof.refusal is not None:
                assert proof.refusal.reason, (path, how)
            else:
                assert proof.removal is not None
                assert proof.removal.replaced, (path, how)
                assert proof.ok or any(finding.failed for finding in proof.findings), (path, how)

    def test_some_module_can_be_taken_out(self, proofs: dict[tuple[str, str], Proof | UsageError]) -> None:
        assert any(isinstance(proof, Proof) and proof.ok for proof in proofs.values())

    def test_matched_stand_ins_keep_the_number_of_parameters(
        self, subject: Subject, proofs: dict[tuple[str, str], Proof | UsageError]
    ) -> None:
        for (path, how), proof in proofs.items():
            if how == "matched" and isinstance(proof, Proof) and proof.removal is not None:
                removed = sum(one.numel() for one in subject.model.get_submodule(path).parameters())
                assert abs(proof.removal.parameters) <= 0.05 * removed, path

    def test_what_is_proven_also_trains_at_other_sizes(
        self, seen: Probe, proofs: dict[tuple[str, str], Proof | UsageError]
    ) -> None:
        batches = [batch for batch in (self.batch(3), self.other_batch(2)) if batch is not None]
        whole = self.built().train()
        for (path, how), proof in proofs.items():
            if not isinstance(proof, Proof) or not proof.ok:
                continue
            model = copy.deepcopy(whole)
            remove(model, Part(path, paths_of(model)[path]), how=how, probe=seen)
            for batch in batches:
                with slow_paths():
                    wanted = [tensor.shape for tensor in leaves(call_model(copy.deepcopy(whole), batch))]
                    given = leaves(call_model(model, batch))
                assert [tensor.shape for tensor in given] == wanted, (path, how)
                total = sum(tensor.sum() for tensor in given if tensor.is_floating_point())
                assert isinstance(total, torch.Tensor)
                if total.requires_grad:
                    total.backward()
                assert all(bool(torch.isfinite(t).all()) for t in given if t.is_floating_point()), (path, how)

    def test_the_weights_that_stay_start_as_in_the_base(
        self, seen: Probe, proofs: dict[tuple[str, str], Proof | UsageError]
    ) -> None:
        base = self.built(7).state_dict()
        for (path, how), proof in proofs.items():
            if how != "auto" or not isinstance(proof, Proof) or not proof.ok:
                continue
            model = self.built(7)
            remove(model, Part(path, paths_of(model)[path]), how=how, probe=seen)
            state = model.state_dict()
            gone = set(base) - set(state)
            assert all(torch.equal(state[name], base[name]) for name in base.keys() & state.keys()), path
            assert set(state) <= set(base), path
            assert all(any(name.startswith(f"{place}.") for place in _places(proof)) for name in gone), path

    def test_proving_leaves_the_model_and_the_random_state_alone(self, subject: Subject) -> None:
        before = copy.deepcopy(subject.model.state_dict())
        state = torch.get_rng_state()
        for part in match(subject.model, "**")[:4]:
            try:
                subject.prove(part)
            except UsageError:
                continue
        assert torch.equal(torch.get_rng_state(), state)
        after = subject.model.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(after[name], value) for name, value in before.items())

    def test_input_features_change_or_are_refused(self) -> None:
        inputs = [tensor for tensor in leaves(self.batch(12)) if tensor.ndim > 1]
        if not inputs:
            pytest.skip("the model is given no table")
        data = inputs[0], torch.arange(len(inputs[0]))
        name = "0" if features.names(data) else "rows:0"
        for how in ("mean", "permute"):
            made = features.remove_feature(data, [name], how=how, seed=1)
            assert made[0].shape == data[0].shape
            assert not np.array_equal(made[0].numpy(), data[0].numpy()), how
        with pytest.raises(UsageError, match="the data has no such"):
            features.remove_feature(data, ["no such feature"])


def _places(proof: Proof) -> list[str]:
    return [one.path for one in proof.removal.replaced] if proof.removal is not None else []
