"""Every trainer passes the contract; declarations are checked where they are made."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from mlsysopt.core.errors import MissingExtra, UsageError
from mlsysopt.testing.trainers import TrainerContract
from mlsysopt.train.estimate import TrainerRecord, trainer
from mlsysopt.train.estimate.terms import TermError
from mlsysopt.train.estimate.trainers import find, names
from mlsysopt.train.estimate.trainers.registry import split_sum
from tests.train.estimate.planted import planted


class TestSVD(TrainerContract):
    params: ClassVar[dict[str, Any]] = {"n_factors": 6, "n_epochs": 2}

    def make_record(self) -> TrainerRecord:
        return find("svd")


class TestSVDpp(TestSVD):
    def make_record(self) -> TrainerRecord:
        return find("svdpp")


class TestSVDppCached(TestSVD):
    params: ClassVar[dict[str, Any]] = {"n_factors": 6, "n_epochs": 2, "cache_ratings": True}

    def make_record(self) -> TrainerRecord:
        return find("svdpp")


class TestNMF(TestSVD):
    def make_record(self) -> TrainerRecord:
        return find("nmf")


class TestKNNByUser(TrainerContract):
    def make_record(self) -> TrainerRecord:
        return find("knn")


class TestKNNByItem(TrainerContract):
    params: ClassVar[dict[str, Any]] = {"user_based": False, "sim": "cosine", "kind": "zscore"}

    def make_record(self) -> TrainerRecord:
        return find("knn")


class TestKNNBaseline(TrainerContract):
    params: ClassVar[dict[str, Any]] = {"user_based": False, "sim": "pearson_baseline", "kind": "baseline"}

    def make_record(self) -> TrainerRecord:
        return find("knn")


class TestSlopeOne(TrainerContract):
    def make_record(self) -> TrainerRecord:
        return find("slopeone")


class TestCoClustering(TrainerContract):
    params: ClassVar[dict[str, Any]] = {"n_epochs": 2}

    def make_record(self) -> TrainerRecord:
        return find("cocluster")


class TestBaselineALS(TrainerContract):
    def make_record(self) -> TrainerRecord:
        return find("baseline")


class TestBaselineSGD(TrainerContract):
    params: ClassVar[dict[str, Any]] = {"method": "sgd"}

    def make_record(self) -> TrainerRecord:
        return find("baseline")


class TestALS(TrainerContract):
    params: ClassVar[dict[str, Any]] = {"factors": 16, "iterations": 2}

    def make_record(self) -> TrainerRecord:
        return find("als")


class TestALSCholesky(TrainerContract):
    params: ClassVar[dict[str, Any]] = {"factors": 16, "iterations": 2, "solver": "cholesky", "alpha": 2.0}

    def make_record(self) -> TrainerRecord:
        return find("als")


class TestPlanted(TrainerContract):
    params: ClassVar[dict[str, Any]] = {"n_epochs": 1}

    def make_record(self) -> TrainerRecord:
        return planted


def test_all_of_ours_are_named() -> None:
    assert {"als", "baseline", "cocluster", "knn", "nmf", "slopeone", "svd", "svdpp"} <= set(names())


def test_an_unknown_trainer_gets_near_misses_and_the_list() -> None:
    with pytest.raises(UsageError) as refused:
        find("svdp")
    assert "did you mean svd" in str(refused.value)
    assert "slopeone" in str(refused.value)


def test_a_module_and_a_name_are_imported() -> None:
    assert find("tests.train.estimate.planted:planted").name == "planted"
    with pytest.raises(UsageError, match="must be importable"):
        find("no_such_module:mine")
    with pytest.raises(UsageError, match=r"make one with estimate\.trainer"):
        find("tests.train.estimate.planted:burn")


def test_a_missing_package_is_named_with_its_line() -> None:
    record = trainer("t", fit=lambda data: None, time="R", modules=("no_such_package_at_all",), extra="train")
    with pytest.raises(MissingExtra, match=r"pip install 'mlsysopt\[train\]'"):
        record.check_installed()


@pytest.mark.parametrize(
    ("time", "words"),
    [
        ("n_epochs*Q", "unknown symbol 'Q' at position 9"),
        ("__import__('os')", "position"),
        ("R.real", "position"),
        ("open(R)", "position"),
    ],
)
def test_a_term_that_cannot_be_is_refused_when_declared(time: str, words: str) -> None:
    with pytest.raises(TermError, match=words.replace("(", r"\(")):
        trainer("t", fit=lambda data, n_epochs=1: None, time=time)


def test_text_is_read_as_the_type_of_the_default() -> None:
    record = find("knn").settled({"user_based": "false", "sim": "cosine", "k": "20"})
    assert (record.params["user_based"], record.params["sim"], record.params["k"]) == (False, "cosine", 20)
    assert find("als").settled({"alpha": "2"}).params["alpha"] == 2


@pytest.mark.parametrize(
    ("name", "params", "words"),
    [
        ("knn", {"sim": "manhattan"}, "allowed are msd, cosine"),
        ("svd", {"n_factors": "many"}, "a whole number from 1"),
        ("svd", {"n_epochs": 0}, "a whole number from 1"),
        ("svd", {"biased": 3}, "true or false"),
    ],
)
def test_a_value_that_is_not_allowed_is_named(name: str, params: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        find(name).settled(params)


def test_a_hyper_parameter_without_a_default_is_asked_for() -> None:
    record = trainer("t", fit=lambda data, n_factors, n_epochs: None, time="n_epochs*n_factors*R")
    assert record.epochs == "n_epochs"
    with pytest.raises(UsageError, match="needs a value for n_factors, n_epochs"):
        record.settled()
    assert record.settled({"n_factors": 3, "n_epochs": 2}).term_params == ("n_factors", "n_epochs")


def test_sums_are_split_outside_brackets_only() -> None:
    assert split_sum("n_epochs*n_factors*R + n_epochs*R + n_factors*(U+I)") == (
        "n_epochs*n_factors*R",
        "n_epochs*R",
        "n_factors*(U+I)",
    )
    assert split_sum("1e+6*R + 2") == ("1e+6*R", "2")
    assert split_sum("R * +2") == ("R * +2",)


def test_a_record_can_be_called_like_its_fit() -> None:
    assert trainer("t", fit=lambda data, n=1: (data, n), time="R")("x", n=3) == ("x", 3)
