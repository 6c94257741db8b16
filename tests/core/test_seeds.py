"""Streams repeat for the same key, in every process, and differ for every other key."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsysopt.core.errors import UsageError
from mlsysopt.core.seeds import integer_seed, seed_sequence, stream

KEYS = st.lists(st.one_of(st.integers(0, 2**40), st.text(max_size=5)), max_size=4)


@given(a=KEYS, b=KEYS)
@settings(deadline=None, max_examples=100)
def test_different_keys_give_different_streams(a: list[int | str], b: list[int | str]) -> None:
    same = seed_sequence(1, *a).generate_state(4).tolist() == seed_sequence(1, *b).generate_state(4).tolist()
    assert same == (a == b)


def test_a_large_number_is_not_taken_for_two_small_ones() -> None:
    one, two = seed_sequence(0, 1 + (2 << 32)), seed_sequence(0, 1, 2)
    assert one.generate_state(4).tolist() != two.generate_state(4).tolist()


def test_words_mean_the_same_in_another_process() -> None:
    code = "from mlsysopt.core.seeds import integer_seed; print(integer_seed(3, worker=2, trials=9, role='canary'))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": salt, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for salt in ("1", "2")
    }
    assert outputs == {f"{integer_seed(3, worker=2, trials=9, role='canary')}\n"}


def test_every_part_of_the_key_matters() -> None:
    base = {"worker": 1, "trials": 1, "role": "trial", "round": 1}
    changed = [{**base, name: value} for name, value in [("worker", 2), ("trials", 2), ("role", "x"), ("round", 2)]]
    assert len({integer_seed(5, **kw) for kw in [base, *changed]}) == 5  # type: ignore[arg-type]


def test_integer_seeds_are_plain_and_in_range() -> None:
    seeds = [integer_seed(0, round=i) for i in range(200)]
    assert all(type(seed) is int and 1 <= seed < 2**31 for seed in seeds)
    assert len(set(seeds)) == 200


def test_streams_are_generators_of_their_own() -> None:
    assert np.array_equal(stream(1).random(3), stream(1).random(3))


@pytest.mark.parametrize(("seed", "key"), [(-1, ()), (1, (-1,)), (1.5, ()), (1, (2**64,))])
def test_refused(seed: int, key: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="must be"):
        seed_sequence(seed, *key)
