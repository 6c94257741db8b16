"""Features leave the input in every form that data takes: dropped, held at the training mean, or shuffled."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from mlsysopt.core.errors import UsageError
from mlsysopt.design.ablate import features
from mlsysopt.design.ablate.inputs import edited
from mlsysopt.design.ablate.regions import mask_of


def table(rows: int = 12, columns: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def labels(rows: int = 12) -> np.ndarray:
    return np.arange(rows)


class Pictures(Dataset):
    """Examples (picture, label), with a field of its own."""

    classes = ("a", "b")

    def __init__(self, rows: int = 10) -> None:
        self.pictures = torch.from_numpy(np.random.default_rng(1).standard_normal((rows, 1, 4, 5))).float()

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.pictures[index], index % 2


class Records(Dataset):
    """Examples that are mappings."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"age": torch.tensor(float(index)), "rent": torch.tensor([1.0 * index, 2.0]), "y": index}


FORMS: dict[str, tuple[Any, Any]] = {
    "pair": (lambda x, y, v, w: (x, y), lambda d: [d[0]]),
    "array": (lambda x, y, v, w: x, lambda d: [d]),
    "tensors": (lambda x, y, v, w: tuple(map(torch.from_numpy, (x, y, v, w))), lambda d: [d[0].numpy(), d[2].numpy()]),
    "four": (lambda x, y, v, w: (x, y, v, w), lambda d: [d[0], d[2]]),
    "sklearn's order": (lambda x, y, v, w: (x, v, y, w), lambda d: [d[0], d[1]]),
    "pairs": (lambda x, y, v, w: ((x, y), (v, w)), lambda d: [d[0][0], d[1][0]]),
    "splits": (lambda x, y, v, w: {"train": (x, y), "val": (v, w)}, lambda d: [d["train"][0], d["val"][0]]),
    "flat": (
        lambda x, y, v, w: {"x_train": x, "y_train": y, "x_val": v, "y_val": w},
        lambda d: [d["x_train"], d["x_val"]],
    ),
    "mapping": (
        lambda x, y, v, w: {"train": {"x": x, "y": y}, "test": {"x": v, "y": w}},
        lambda d: [d["train"]["x"], d["test"]["x"]],
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_mean_of_the_training_rows_stands_in_every_split(form: str) -> None:
    make, read = FORMS[form]
    x, v = table(), table(8, seed=1)
    data = make(x, labels(), v, labels(8))
    made = features.remove_feature(data, ["1"], how="mean")
    for before, after in zip((x, v), read(made), strict=False):
        assert np.allclose(after[:, 1], x[:, 1].mean(), atol=1e-6)
        assert np.array_equal(np.delete(after, 1, 1), np.delete(before, 1, 1))
        assert after.dtype == before.dtype
    assert np.array_equal(read(data)[0], x), "what the user handed over is left as it is"


@pytest.mark.parametrize("form", FORMS)
def test_a_shuffle_keeps_the_marginal_of_each_split(form: str) -> None:
    make, read = FORMS[form]
    x, v = table(), table(8, seed=1)
    made = read(features.remove_feature(make(x, labels(), v, labels(8)), ["0", "2"], how="permute", seed=3))
    for before, after in zip((x, v), made, strict=False):
        assert not np.array_equal(after[:, 0], before[:, 0])
        assert np.array_equal(np.sort(after[:, 0]), np.sort(before[:, 0]))
        assert np.array_equal(after[:, 1], before[:, 1])
        pairs = {tuple(row) for row in before[:, [0, 2]]}
        assert {tuple(row) for row in after[:, [0, 2]]} == pairs, "a group moves together"


@pytest.mark.parametrize("form", FORMS)
def test_dropped_columns_are_gone(form: str) -> None:
    make, read = FORMS[form]
    x, v = table(), table(8, seed=1)
    for before, after in zip(
        (x, v), read(features.remove_feature(make(x, labels(), v, labels(8)), ["1"], how="drop")), strict=False
    ):
        assert np.array_equal(after, before[:, [0, 2]])


def test_the_same_seed_shuffles_in_the_same_way_and_another_one_does_not() -> None:
    data = table(), labels()
    one, again, other = (features.remove_feature(data, ["0"], how="permute", seed=seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_two_features_taken_away_one_after_another_are_shuffled_apart() -> None:
    x = np.stack([np.arange(20.0), np.arange(20.0)], 1)
    data, left = features.removed((x, labels(20)), [(["0"], "permute"), (["1"], "permute")])
    assert not np.array_equal(data[0][:, 0], data[0][:, 1])
    assert left == ["0", "1"]


def test_positions_keep_their_number_when_columns_go_one_after_another() -> None:
    x = table(columns=4)
    data, left = features.removed((x, labels()), [(["0"], "drop"), (["2"], "drop")])
    assert left == ["1", "3"]
    assert np.array_equal(data[0], x[:, [1, 3]])
    data, left = features.removed((x, labels()), [(["b"], "drop"), (["d"], "mean")], names=list("abcd"))
    assert left == ["a", "c", "d"]


class TestFrames:
    def frame(self, rows: int = 10) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "age": np.arange(rows, dtype=float),
                "rooms": np.arange(rows) % 4,
                "city": pd.Categorical(["Rome", "Oslo"] * (rows // 2 - 1) + ["Oslo"] * 2),
                "open": [True] * (rows - 1) + [False],
            },
            index=np.arange(rows)[::-1],
        )

    def test_means_keep_the_type_and_words_become_the_most_frequent_one(self) -> None:
        frame = self.frame()
        made = features.remove_feature({"train": frame, "val": frame.iloc[:4]}, ["age", "city", "rooms", "open"])
        for split in made.values():
            assert (split["age"] == 4.5).all()
            assert (split["city"] == "Oslo").all()
            assert split["open"].all()
            assert split.dtypes.equals(frame.dtypes)
        assert made["val"].index.equals(frame.index[:4])

    def test_shuffle_and_drop(self) -> None:
        frame = self.frame()
        target = pd.Series(np.arange(10), index=frame.index)
        shuffled = features.remove_feature((frame, target), ["age"], how="permute", seed=2)[0]
        assert sorted(shuffled["age"]) == sorted(frame["age"])
        assert not shuffled["age"].equals(frame["age"])
        assert shuffled[["rooms", "city", "open"]].equals(frame[["rooms", "city", "open"]])
        assert list(features.remove_feature(frame, ["age", "city"], how="drop").columns) == ["rooms", "open"]
        assert features.names((frame, target)) == ["age", "rooms", "city", "open"]

    def test_an_unknown_column_names_the_nearest(self) -> None:
        with pytest.raises(UsageError, match=r"feature 'citi': the data has no such; did you mean city\?") as caught:
            features.remove_feature(self.frame(), ["citi"])
        assert caught.value.exit_code == 2


class TestColumns:
    def data(self) -> dict[str, dict[str, torch.Tensor]]:
        def split(rows: int) -> dict[str, torch.Tensor]:
            return {
                "age": torch.arange(rows).float(), "words": torch.arange(rows) % 2 * 0 + 7, "label": torch.arange(rows),
            }  # fmt: skip

        return {"train": split(6), "val": split(4)}

    def test_columns_are_features_and_labels_are_none(self) -> None:
        assert features.names(self.data()) == ["age", "words"]
        made = features.remove_feature(self.data(), ["age"])
        assert made["val"]["age"].tolist() == [2.5] * 4
        assert made["val"]["label"].tolist() == [0, 1, 2, 3]
        assert set(features.remove_feature(self.data(), ["age"], how="drop")["train"]) == {"words", "label"}
        shuffled = features.remove_feature(self.data(), ["age"], how="permute", seed=1)
        assert sorted(shuffled["train"]["age"].tolist()) == [0, 1, 2, 3, 4, 5]

    def test_a_label_is_no_feature(self) -> None:
        with pytest.raises(UsageError, match="feature 'label'"):
            features.remove_feature(self.data(), ["label"])


class TestPictures:
    def picture(self) -> np.ndarray:
        return np.random.default_rng(2).standard_normal((6, 3, 8, 9)).astype(np.float32)

    @pytest.mark.parametrize(
        ("region", "where"),
        [
            ("channel:1", np.s_[:, 1]), ("rows:0", np.s_[:, :, 0]), ("row:6-7", np.s_[:, :, 6:8]),
            ("columns:0-2", np.s_[:, :, :, :3]), ("patch:0-3,4-7", np.s_[:, :, :4, 4:8]),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("how", ["mean", "permute"])
    def test_regions(self, region: str, where: Any, how: str) -> None:
        x = self.picture()
        made = features.remove_feature((x, labels(6)), [region], how=how, seed=4)[0]
        inside = np.zeros(x.shape, bool)
        inside[where] = True
        assert np.array_equal(made[~inside], x[~inside])
        if how == "mean":
            assert np.allclose(made[where], np.broadcast_to(x.mean(0), x.shape)[where], atol=1e-6)
        else:
            assert np.allclose(np.sort(made, 0), np.sort(x, 0))
            assert not np.array_equal(made, x)

    def test_channels_last_and_pixels_of_bytes(self) -> None:
        x = np.random.default_rng(3).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
        made = features.remove_feature((x, labels(5)), ["channel:2"])[0]
        assert made.dtype == np.uint8
        assert np.array_equal(made[..., 2], np.broadcast_to(np.rint(x[..., 2].mean(0)), (5, 8, 8)))

    def test_dropped_channels_and_a_patch_that_cannot_be(self) -> None:
        assert features.remove_feature((self.picture(), labels(6)), ["channel:0"], how="drop")[0].shape == (6, 2, 8, 9)
        with pytest.raises(UsageError, match="a patch cannot be cut out"):
            features.remove_feature((self.picture(), labels(6)), ["patch:0-1,0-1"], how="drop")
        with pytest.raises(UsageError, match="no feature would be left"):
            features.remove_feature((self.picture(), labels(6)), ["channel:0-2"], how="drop")

    def test_names_stand_for_regions(self) -> None:
        names = {"left": "columns:0-2", "right": "columns:6-8"}
        assert features.names(self.picture(), names=names) == ["left", "right"]
        made = features.remove_feature(self.picture(), ["left", "right"], names=names)
        assert np.ptp(made[..., :3], axis=0).max() == 0
        assert np.ptp(made[..., 3:6], axis=0).min() > 0

    @pytest.mark.parametrize(
        ("region", "message"),
        [
            ("channel:3", "reaches outside 0-2"), ("columns:5-2", "reaches outside"), ("patch:1", "cannot be read"),
            ("colums:0", "regions: channels:0-2, rows:0-7, columns:0-8, patch:0-7,0-8"), ("stripe", "named by region"),
        ],
    )  # fmt: skip
    def test_what_is_not_there_is_refused_with_what_is(self, region: str, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            features.check(self.picture(), [region])


class TestDatasets:
    def test_mean_over_the_training_examples(self) -> None:
        train, val = Pictures(10), Pictures(4)
        made = features.remove_feature({"train": train, "val": val}, ["columns:0-1"])
        for split in (made["train"], made["val"]):
            assert all(
                torch.allclose(split[i][0][..., :2], train.pictures.mean(0)[..., :2], atol=1e-6)
                for i in range(len(split))
            )
        assert torch.equal(made["val"][3][0][..., 2:], val.pictures[3][..., 2:])
        assert made["val"][3][1] == 1
        assert made["train"].classes == ("a", "b")

    def test_shuffled_within_the_split_and_picklable(self) -> None:
        train = Pictures(10)
        made = pickle.loads(pickle.dumps(features.remove_feature((train, Pictures(4)), ["rows:0"], how="permute")))
        seen = torch.stack([made[0][i][0] for i in range(10)])
        assert torch.equal(seen[:, :, 1:], train.pictures[:, :, 1:])
        assert torch.equal(seen[:, :, 0].sort(0).values, train.pictures[:, :, 0].sort(0).values)

    def test_examples_that_are_mappings(self) -> None:
        assert features.names(Records()) == ["age", "rent"]
        made = features.remove_feature(Records(), ["age", "rent"])
        assert made[5]["age"] == 2.5
        assert made[5]["rent"].tolist() == [2.5, 2.0]
        assert made[5]["y"] == 5
        assert set(features.remove_feature(Records(), ["rent"], how="drop")[0]) == {"age", "y"}

    def test_subsets_and_tensors(self) -> None:
        x = torch.from_numpy(table())
        made = features.remove_feature(Subset(TensorDataset(x, torch.arange(12)), [0, 2, 4]), ["1"], how="drop")
        assert torch.equal(made[2][0], x[4][[0, 2]])
        batch = next(iter(torch.utils.data.DataLoader(made, batch_size=3)))
        assert batch[0].shape == (3, 2)


def test_indices_become_the_most_frequent_one() -> None:
    tokens = np.array([[5, 9], [5, 3], [7, 3]])
    assert features.remove_feature((tokens, labels(3)), ["0", "1"])[0].tolist() == [[5, 3]] * 3


def test_gaps_do_not_spread() -> None:
    x = np.array([[1.0], [np.nan], [3.0]])
    assert features.remove_feature((x, labels(3)), ["0"])[0].ravel().tolist() == [2.0] * 3


def test_a_memory_map_is_not_written_to(tmp_path: Any) -> None:
    np.save(tmp_path / "x.npy", table())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    made = features.remove_feature({"x_train": mapped, "y_train": labels()}, ["0"])
    assert np.ptp(made["x_train"][:, 0]) == 0
    assert np.array_equal(np.load(tmp_path / "x.npy"), table())


@pytest.mark.parametrize(
    ("data", "wanted", "given", "message"),
    [
        ((table(), labels()), ["7"], {}, r"reaches outside 0-2"),
        ((table(), labels()), ["agee"], {"names": ["age", "rent", "city"]}, r"did you mean age\?"),
        ((table(), labels()), ["0"], {"names": ["age"]}, "1 names for 3 features"),
        ((table(), labels()), ["0"], {"how": "mode"}, "how='mode'"),
        ((labels(), labels()), ["0"], {}, "has no features"),
        ("a text", ["0"], {}, "no input features can be found in data"),
        (None, ["0"], {}, "no input features can be found in data"),
    ],
)
def test_refusals(data: Any, wanted: list[str], given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        features.remove_feature(data, wanted, **given)
    assert caught.value.exit_code == 2
    assert len(str(caught.value).splitlines()) <= 3


def test_only_inputs_are_edited() -> None:
    seen: list[tuple[str, tuple[int, ...]]] = []

    def note(split: str, given: Any) -> Any:
        seen.append((split, given.shape))
        return given

    edited({"X_train": table(), "y_train": labels(), "weights": labels(), "test_x": table(4), "name": "digits"}, note)
    assert seen == [("train", (12, 3)), ("test", (4, 3))]


def test_masks_of_a_sequence_are_by_its_last_axis() -> None:
    assert mask_of("f", (4, 2), ["e", "f"])[:, 1].all()
    assert mask_of("rows:1-2", (4, 2)).sum() == 4
