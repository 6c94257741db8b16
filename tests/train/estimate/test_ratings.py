"""Ratings come in as they stand in the file, and what is wrong with a file is said with row and value."""

from __future__ import annotations

import gzip
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from mlsysopt.core.errors import UsageError
from mlsysopt.train.estimate.characteristics import Characteristics, characteristics_of, square_sum
from mlsysopt.train.estimate.ratings import Ratings, RatingsError
from mlsysopt.train.estimate.synthetic import ratings as drawn

ROWS = [("7", "b", 4.0), ("3", "a", 1.0), ("7", "a", 5.0), ("10", "b", 2.5)]


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def shown(data: Ratings) -> list[tuple[str, str, float]]:
    names, items = data.user_names, data.item_names
    return [(str(names[u]), str(items[i]), v) for u, i, v in zip(data.user, data.item, data.value, strict=True)]


@pytest.mark.parametrize(
    ("name", "text", "columns"),
    [
        ("a.csv", "user,item,rating\n7,b,4\n3,a,1\n7,a,5\n10,b,2.5\n", None),
        ("a.tsv", "userId\tmovieId\trating\ttimestamp\n7\tb\t4\t1\n3\ta\t1\t2\n7\ta\t5\t3\n10\tb\t2.5\t4\n", None),
        ("a.dat", "7::b::4::9\n3::a::1::9\n7::a::5::9\n10::b::2.5::9\n", (0, 1, 2)),
        ("a.txt", "stars;who;what\n4;7;b\n1;3;a\n5;7;a\n2.5;10;b\n", ("who", "what", "stars")),
        ("a.csv", '\ufeff"user","item","rating"\r\n"7","b",4\r\n3,a,1\r\n7,a,5\r\n10,b,2.5\r\n', None),
    ],
)
def test_text_tables_keep_order_and_names(
    tmp_path: Path, name: str, text: str, columns: tuple[str | int, ...] | None
) -> None:
    data = Ratings.from_csv(written(tmp_path / name, text), columns=columns)
    assert shown(data) == ROWS
    assert data.user.dtype == data.item.dtype == np.int32 and data.value.dtype == np.float64
    # Codes in order of first appearance, as Surprise gives them.
    assert data.user.tolist() == [0, 1, 0, 2]


def test_a_gzipped_table(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"user,item,rating\n7,b,4\n3,a,1\n7,a,5\n10,b,2.5\n"))
    assert shown(Ratings.from_csv(path)) == ROWS


def test_frame_parquet_and_matrix_agree_with_the_text(tmp_path: Path) -> None:
    frame = pd.DataFrame(ROWS, columns=["user", "item", "rating"])
    assert shown(Ratings.from_frame(frame)) == ROWS
    frame.to_parquet(tmp_path / "a.parquet")
    assert shown(Ratings.from_parquet(tmp_path / "a.parquet")) == ROWS
    matrix = sparse.csr_matrix(([1.0, 5.0, 4.0, 2.5], ([0, 1, 1, 5], [0, 0, 1, 1])))
    assert Ratings.from_csr(matrix).characteristics == Ratings.from_frame(frame).characteristics


def test_whole_ids_that_a_table_kept_as_doubles_stay_whole(tmp_path: Path) -> None:
    frame = pd.DataFrame({"user": [1.0, 2.0], "item": [5, 6], "rating": [1, 2]})
    assert Ratings.from_frame(frame).user_names.tolist() == [1, 2]
    frame["user"] = [1.5, 2.0]
    with pytest.raises(RatingsError, match=r"an id of 1\.5 in row 1"):
        Ratings.from_frame(frame)
    frame["user"] = [1.0, None]
    with pytest.raises(RatingsError, match="1 ids are missing, the first in row 2"):
        Ratings.from_frame(frame)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the file is empty"),
        ("user,item,rating\n", "no ratings"),
        ("user,item,when\n1,2,3\n", r"no column rating; its columns are user, item, when\n.*--columns user,item,when"),
        ("user,item,rating\n1,2,good\n1,3,4\n2,2,\n", r"2 ratings are not finite numbers: row 2: 'good', row 4: ''"),
        ("user,item,rating\n" + "1,2,nan\n" * 5, r"5 ratings .*: row 2: 'nan', row 3: 'nan', row 4: 'nan'$"),
        ("user,item,rating\n1,2,inf\n", "row 2: 'inf'"),
        ("user,item,rating\n1,2,3\n1,2\n", "a.csv: .*Expected 3 columns, got 2"),
    ],
)
def test_a_bad_file_is_refused_with_row_and_value(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(RatingsError, match=says) as caught:
        Ratings.from_csv(written(tmp_path / "a.csv", text))
    assert caught.value.exit_code == 2
    assert len(str(caught.value).splitlines()) <= 3


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(RatingsError, match="there is no such file"):
        Ratings.from_csv(tmp_path / "none.csv")
    with pytest.raises(RatingsError, match="there is no such file"):
        Ratings.from_parquet(tmp_path / "none.parquet")


def test_duplicates_are_counted_and_kept_as_asked(caplog: pytest.LogCaptureFixture) -> None:
    user, item, value = [0, 1, 0, 0], [0, 0, 0, 1], [1.0, 2.0, 5.0, 3.0]
    kept = Ratings.from_codes(user, item, value)
    assert (len(kept), kept.n_duplicates) == (4, 1)
    assert kept.csr()[0, 0] == 6.0, "a matrix adds them up"
    last = Ratings.from_codes(user, item, value, duplicates="last")
    assert last.value.tolist() == [2.0, 5.0, 3.0] and last.n_duplicates == 0
    with caplog.at_level(logging.WARNING, logger="mlsysopt.estimate"):
        mean = Ratings.from_codes(user, item, value, duplicates="mean")
    assert mean.value.tolist() == [2.0, 3.0, 3.0] and "1 ratings repeat a pair" in caplog.text
    with pytest.raises(RatingsError, match="allowed are keep, last, mean"):
        Ratings.from_codes(user, item, value, duplicates="first")  # type: ignore[arg-type]


def test_constant_ratings_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="mlsysopt.estimate"):
        Ratings.from_codes([0, 1], [0, 1], [0.0, 0.0])
    assert "every rating is 0" in caplog.text


def test_characteristics_equal_counting_by_hand() -> None:
    data = drawn("pareto", "zipf1.2", n_users=80, n_items=60, n_ratings=900, seed=3, locality=0.5)
    users, items = Counter(data.user.tolist()), Counter(data.item.tolist())
    assert data.characteristics.symbols() == {
        "R": 900,
        "U": len(users),
        "I": len(items),
        "Su": sum(n * n for n in users.values()),
        "Si": sum(n * n for n in items.values()),
        "Mu": max(users.values()),
        "Mi": max(items.values()),
    }


def test_sums_beyond_64_bits_are_refused_not_wrapped() -> None:
    large = np.array([4_000_000_000, 5], dtype=np.int64)
    assert square_sum(large) == 4_000_000_000**2 + 25 > 2**63
    with pytest.raises(UsageError, match="does not fit in 64 bits"):
        Characteristics(R=10, U=1, I=1, Su=square_sum(large), Si=1, Mu=1, Mi=1)


def test_characteristics_round_trip_and_ramp_limits() -> None:
    sizes = characteristics_of(np.array([0, 0], dtype=np.int32), np.array([0, 1], dtype=np.int32))
    again = Characteristics.from_dict(sizes.with_walk(Wu=0.5).as_dict())
    assert again.Wu == 0.5 and np.isnan(again.Wi) and again.symbols() == sizes.with_walk(Wu=0.5).symbols()
    with pytest.raises(UsageError, match="0 < W1 < W2"):
        sizes.with_ramp(W1=5, W2=5)


def test_a_subset_holds_whole_users_in_file_order() -> None:
    data = drawn(n_users=50, n_items=40, n_ratings=500, order="shuffled", seed=4)
    mask = np.arange(50) % 3 == 0
    part = data.subset_users(mask)
    rows = mask[data.user]
    assert part.value.tolist() == data.value[rows].tolist()
    assert part.n_users == len(np.unique(data.user[rows])) and part.n_items == len(np.unique(data.item[rows]))
    assert np.array_equal(np.unique(data.user[rows])[part.user], data.user[rows])
    assert part.digest == data.subset_users(np.flatnonzero(mask)).digest != data.digest
    items = data.subset_items([1, 5])
    assert items.n_items == 2 and len(items) == int(np.isin(data.item, [1, 5]).sum())
    with pytest.raises(RatingsError, match="codes 0 to 49"):
        data.subset_users([50])
    with pytest.raises(RatingsError, match="a sample without ratings"):
        data.subset_users([])


def test_names_follow_a_subset(tmp_path: Path) -> None:
    data = Ratings.from_csv(written(tmp_path / "a.csv", "user,item,rating\n7,b,4\n3,a,1\n7,a,5\n10,b,2.5\n"))
    assert shown(data.subset_users([0, 2])) == [row for row in ROWS if row[0] != "3"]


def test_trainset_equals_the_one_that_surprise_builds() -> None:
    from surprise import Dataset, Reader

    data = drawn(n_users=40, n_items=30, n_ratings=400, order="shuffled", seed=5)
    ours = data.trainset()
    frame = pd.DataFrame({"user": data.user, "item": data.item, "rating": data.value})
    scale = (data.value.min(), data.value.max())
    theirs = Dataset.load_from_df(frame, Reader(rating_scale=scale)).build_full_trainset()
    assert dict(ours.ur) == dict(theirs.ur) and list(ours.ur) == list(theirs.ur)
    assert dict(ours.ir) == dict(theirs.ir) and list(ours.ir) == list(theirs.ir)
    assert (ours.n_users, ours.n_items, ours.n_ratings) == (theirs.n_users, theirs.n_items, theirs.n_ratings)
    assert ours.global_mean == theirs.global_mean and ours.rating_scale == theirs.rating_scale
    assert ours.to_raw_uid(3) == theirs.to_raw_uid(3) and ours.to_inner_iid(7) == theirs.to_inner_iid(7)


def test_a_trainset_comes_back_user_by_user() -> None:
    data = drawn(n_users=40, n_items=30, n_ratings=400, order="shuffled", seed=6)
    trainset = data.trainset()
    again = Ratings.from_trainset(trainset)

    def named(one: Any) -> list[tuple[Any, Any, float]]:
        return [(one.to_raw_uid(u), one.to_raw_iid(i), r) for u, i, r in one.all_ratings()]

    assert named(again.trainset()) == named(trainset)
    assert again.characteristics.symbols() == data.characteristics.symbols()


def test_digest_is_of_content_and_order() -> None:
    data = drawn(n_users=40, n_items=30, n_ratings=400, seed=7)
    assert data.digest == drawn(n_users=40, n_items=30, n_ratings=400, seed=7).digest
    assert data.reordered(np.arange(400)[::-1]).digest != data.digest
    with pytest.raises(RatingsError, match="a permutation"):
        data.reordered([0, 0])


@pytest.mark.parametrize("sizes", [(1, 300, 300), (300, 1, 300), (20, 20, 199)])
def test_too_small_to_sample(sizes: tuple[int, int, int]) -> None:
    n_users, n_items, n = sizes
    data = Ratings.from_codes(np.arange(n) % n_users, np.arange(n) % n_items, np.arange(n) % 5)
    with pytest.raises(RatingsError, match="too small to sample: train it") as caught:
        data.check_size()
    assert caught.value.exit_code == 2 and "loaded in" in str(caught.value)
    drawn(n_users=20, n_items=60, n_ratings=200).check_size()
