"""What a ratio says, and that it survives being written down."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsysopt.core.errors import ArtefactError, MeasureError
from mlsysopt.core.measure import Ratio
from mlsysopt.core.stats import SequentialRule

VALUES = st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=1, max_size=22)
RULE = SequentialRule.for_looks()


def ratio(baseline: list[float], candidate: list[float], **given: object) -> Ratio:
    named = {"metric": "throughput", "better": "higher", "clock": "wall", "machine": "a machine", **given}
    return Ratio.of(baseline, candidate, **named)  # type: ignore[arg-type]


def test_texts_of_the_two_kinds() -> None:
    faster = ratio([100.0] * 6, [152.0, 136.0, 179.0, 150.0, 155.0, 152.0], rule=RULE)
    assert str(faster) == "1.52x [1.36, 1.79], 6 rounds, wall, vs default: proven"
    less = ratio([10.0] * 6, [7.0, 7.1, 7.2, 7.1, 7.2, 7.0], metric="time", better="lower", clock="cpu", unit="s",
                 baseline_name="baseline")  # fmt: skip
    assert str(less) == "0.71x time [0.70, 0.72] (1.41x faster), 6 rounds, cpu: proven"
    more = ratio([10.0] * 6, [13.0] * 6, metric="p99_get_us", better="lower", unit="us", clock=None)
    assert str(more) == "1.30x p99_get_us [1.30, 1.30] (1.30x slower), 6 rounds, vs default: refuted"
    one = ratio([10.0], [20.0])
    assert str(one) == "2.00x [0.00, inf], 1 round, wall, vs default: not proven"


def test_an_end_beside_one_is_not_shown_as_one() -> None:
    close = ratio([1.0] * 6, [1.002, 1.001, 1.003, 1.002, 1.002, 1.001])
    assert close.verdict == "proven"
    assert "[1.001, 1.003]" in str(close)


@given(pairs=VALUES, better=st.sampled_from(["higher", "lower"]))
@settings(deadline=None, max_examples=80)
def test_exchanging_the_sides_inverts_the_ratio(pairs: list[tuple[float, float]], better: str) -> None:
    a, b = [list(side) for side in zip(*pairs, strict=True)]
    there, back = ratio(a, b, better=better, rule=RULE), ratio(b, a, better=better, rule=RULE)
    assert there.value == pytest.approx(1 / back.value)
    assert there.p_value == back.p_value
    opposite = {"proven": "refuted", "refuted": "proven", "not proven": "not proven"}
    assert back.verdict == opposite[there.verdict]
    assert there.low <= there.value <= there.high


@given(pairs=VALUES)
@settings(deadline=None, max_examples=60)
def test_json_round_trip(pairs: list[tuple[float, float]]) -> None:
    a, b = [list(side) for side in zip(*pairs, strict=True)]
    found = ratio(a, b, rule=RULE)
    both = found.with_other(ratio(b, a))
    for kept in (found, both):
        text = json.dumps(kept.to_json(), allow_nan=False)
        assert Ratio.from_json(json.loads(text)) == kept


def test_damaged_record() -> None:
    with pytest.raises(ArtefactError, match="a ratio cannot be read"):
        Ratio.from_json({"metric": "throughput"})


@given(pairs=VALUES)
@settings(deadline=None, max_examples=60)
def test_proven_exactly_when_the_p_value_says_so(pairs: list[tuple[float, float]]) -> None:
    a, b = [list(side) for side in zip(*pairs, strict=True)]
    found = ratio(a, b, rule=RULE)
    assert (found.verdict != "not proven") == (found.p_value <= 0.05)


def test_rounds_after_the_deciding_look_do_not_count() -> None:
    values = [1.2, 1.3, 1.25, 1.4, 1.1, 1.3, 0.1, 0.1]
    found = ratio([1.0] * 8, values, rule=RULE)
    assert (found.rounds, found.verdict, len(found.per_round)) == (6, "proven", 6)
    assert ratio([1.0] * 8, values, rule=RULE, latest=True).rounds == 8


def test_rounds_between_two_looks_do_not_count() -> None:
    rng = np.random.default_rng(0)
    values = np.exp(rng.standard_normal(11)).tolist()
    assert ratio([1.0] * 11, values, rule=RULE).rounds == 8
    assert ratio([1.0] * 5, values[:5], rule=RULE).rounds == 5


def test_counters_take_the_ratio_of_one_more() -> None:
    found = ratio([0.0] * 6, [1.0] * 6, may_be_zero=True)
    assert found.value == pytest.approx(2.0)
    assert (found.baseline_value, found.candidate_value) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("baseline", "candidate", "message"),
    [
        ([1.0, 0.0], [1.0, 1.0], "throughput of default was 0: a ratio needs finite values above 0"),
        ([1.0], [-2.0], "throughput of candidate was -2"),
        ([1.0], [math.nan], "throughput of candidate was nan"),
        ([1.0], [math.inf], "throughput of candidate was inf"),
        ([1.0], [], "one value of each side per round"),
        ([], [], "one value of each side per round"),
    ],
)
def test_values_without_a_ratio(baseline: list[float], candidate: list[float], message: str) -> None:
    with pytest.raises(MeasureError, match=message):
        ratio(baseline, candidate)


def test_negative_counter() -> None:
    with pytest.raises(MeasureError, match=r"was -1: a ratio needs finite values at least 0"):
        ratio([-1.0], [1.0], may_be_zero=True)
