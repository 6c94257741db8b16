"""Components and rows: merging, combining, content keys, and cutting training rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from mlsysopt.core.errors import StudyError, UsageError
from mlsysopt.design.ablate.deltas import Component, Row, combined, merged, take_fraction
from mlsysopt.design.ablate.records import content_key


def module(name: str, *paths: str, how: str = "auto") -> Component:
    return Component(name, "modules", {"paths": list(paths), "how": how})


def test_groups_with_the_same_members_are_one_with_a_note() -> None:
    found = merged([module("norms", "a", "b"), module("bn", "a", "b"), module("x", "a"), module("again", "a", "b")])
    assert [(one.name, one.note) for one in found] == [("norms", "the same as bn, again"), ("x", "")]


def test_one_name_for_two_things_names_both() -> None:
    with pytest.raises(StudyError, match="two components are called 'x'") as caught:
        merged([module("x", "a"), module("x", "b")])
    assert '"a"' in str(caught.value) and '"b"' in str(caught.value)
    with pytest.raises(StudyError, match="the whole model"):
        merged([module("base", "a")])


def test_a_row_is_its_changes_whatever_their_order() -> None:
    a, b = module("a", "x"), Component("lr=0", "option", {"name": "lr", "value": 0})
    assert Row.without([a, b]).canonical() == Row.without([b, a]).canonical()
    assert content_key(Row.without([a, b]), 3, "f") == content_key(Row.without([b, a]), 3, "f")
    different = {content_key(Row.without([a]), 3, "f"), content_key(Row.without([b]), 3, "f")}
    different |= {content_key(Row.without([a]), 4, "f"), content_key(Row.without([a]), 3, "g")}
    assert len(different) == 4
    # A component may be renamed without training it again.
    assert content_key(Row.without([module("other", "x")]), 3, "f") == content_key(Row.without([a]), 3, "f")


def test_what_lies_inside_a_removed_part_is_not_removed_again() -> None:
    row = Row.without([module("inner", "blocks.0.conv"), module("outer", "blocks.0"), module("beside", "blocks.01")])
    assert combined(row)["modules"] == [("outer", ("blocks.0",), "auto"), ("beside", ("blocks.01",), "auto")]


def test_two_values_for_one_keyword_cannot_be_combined() -> None:
    row = Row.without([Component(f"lr={v}", "option", {"name": "lr", "value": v}) for v in (0, 1)])
    with pytest.raises(UsageError, match="sets 'lr' to 0 and to 1"):
        combined(row)


@pytest.mark.parametrize("kind", ["mapping", "bare mapping", "four", "two", "array", "tensor", "dataset", "frame"])
def test_a_fraction_of_the_training_rows(kind: str) -> None:
    x, y = np.arange(20, dtype=np.float32), np.arange(20)
    if kind == "mapping":
        cut = take_fraction({"x_train": x, "y_train": y, "x_val": x, "note": "n"}, 0.25, 3)
        got, labels = cut["x_train"], cut["y_train"]
        assert len(cut["x_val"]) == 20 and cut["note"] == "n"
    elif kind == "bare mapping":
        cut = take_fraction({"x": x, "y": y, "classes": 10}, 0.25, 3)
        got, labels = cut["x"], cut["y"]
    elif kind == "four":
        got, labels, held, _ = take_fraction((x, y, x, y), 0.25, 3)
        assert len(held) == 20
    elif kind == "two":
        got, labels = take_fraction((x, y), 0.25, 3)
    elif kind == "array":
        got = labels = take_fraction(x, 0.25, 3)
    elif kind == "tensor":
        got = labels = take_fraction(torch.from_numpy(x), 0.25, 3).numpy()
    elif kind == "frame":
        pandas = pytest.importorskip("pandas")
        frame = take_fraction(pandas.DataFrame({"x": x, "y": y}), 0.25, 3)
        got, labels = frame["x"].to_numpy(), frame["y"].to_numpy()
    else:
        part = take_fraction(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), 0.25, 3)
        got, labels = (np.array([float(row[i]) for row in part]) for i in (0, 1))
    assert len(got) == 5
    assert np.array_equal(got, labels)


def test_the_same_seed_keeps_the_same_rows() -> None:
    x = np.arange(1000)
    assert np.array_equal(take_fraction(x, 0.5, 1), take_fraction(x, 0.5, 1))
    assert not np.array_equal(take_fraction(x, 0.5, 1), take_fraction(x, 0.5, 2))
    assert take_fraction(x, 1.0, 1) is x
    with pytest.raises(UsageError, match="none of classes"):
        take_fraction({"classes": 3}, 0.5, 1)
