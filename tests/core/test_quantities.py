"""Quantities are read exactly, and what cannot be read is explained."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsysopt.core.errors import QuantityError
from mlsysopt.core.quantities import (
    format_bytes,
    format_number,
    format_seconds,
    parse_quantity,
    replace_quantities,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2GiB", 2 * 1024**3),
        ("1.5KiB", 1536),
        ("12 kB", 12_000),
        ("7B", 7),
        ("45s", 45.0),
        ("4min", 240.0),
        ("1h30min", 5400.0),
        ("4 min 10 s", 250.0),
        ("-1h30min", -5400.0),
        ("250us", 0.00025),
        ("1.5M", 1_500_000.0),
        ("10k", 10_000),
        ("10%", 0.1),
        ("0.1%", 0.001),
        ("64", 64),
        ("-1", -1),
        (" 1_000 ", 1000),
        ("1e3", 1000.0),
        (5, 5),
        (0.5, 0.5),
    ],
)
def test_reads(text: str | int | float, value: float) -> None:
    found = parse_quantity(text)
    assert found == value
    assert type(found) is type(value)


def test_kinds_decide_the_type() -> None:
    assert parse_quantity(45, kind="seconds") == 45.0
    assert isinstance(parse_quantity(45, kind="seconds"), float)
    assert parse_quantity("0.5KiB", kind="bytes") == 512
    assert isinstance(parse_quantity(512.0, kind="bytes"), int)
    assert parse_quantity("0.25", kind="ratio") == 0.25


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("2Gib", "any", ["'Gib'", "position 1", "did you mean 2GiB?"]),
        ("256 mib", "any", ["position 4", "256MiB"]),
        ("3m", "any", ["3min or 3ms"]),
        ("256M", "bytes", ["ambiguous", "256MiB or 256MB"]),
        ("45s", "bytes", ["is for seconds", "256MiB"]),
        ("2GiB", "seconds", ["is for bytes", "4min"]),
        ("12x", "number", ["unknown unit 'x'", "allowed units: k, M, G, T"]),
        ("", "any", ["empty"]),
        ("GiB", "any", ["position 0", "a number is needed"]),
        ("1h -3s", "any", ["position 3"]),
        ("2GiB 3MiB", "any", ["only times"]),
        ("nan", "any", ["position 0"]),
        ("1e999", "any", ["out of range"]),
        ("9" * 500, "any", ["out of range"]),
    ],
)
def test_refuses_with_position_and_way_out(text: str, kind: str, words: list[str]) -> None:
    with pytest.raises(QuantityError) as caught:
        parse_quantity(text, kind=kind)  # type: ignore[arg-type]
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert message.count("\n") < 3


@pytest.mark.parametrize("given_value", [True, None, [1], float("nan"), float("inf")])
def test_refuses_what_is_no_quantity(given_value: object) -> None:
    with pytest.raises(QuantityError):
        parse_quantity(given_value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "replaced"),
    [
        ("a*b <= 256MiB", "a*b <= 268435456"),
        ("t < 4min and share <= 10%", "t < 240.0 and share <= 0.1"),
        ("a % 10 == 3", "a % 10 == 3"),
        ("a == 10%3", "a == 10%3"),
        ("a == 10% b", "a == 10% b"),
        ("x <= 10% + 5%", "x <= 0.1 + 0.05"),
        ("codec != '2GiB' and a <= 2 GiB", "codec != '2GiB' and a <= 2147483648"),
        ("a2GiB <= 3 and _5s", "a2GiB <= 3 and _5s"),
        ("1 and 2", "1 and 2"),
        ("1.5M + 1e3", "1500000.0 + 1e3"),
    ],
)
def test_replaces_only_quantities(text: str, replaced: str) -> None:
    assert replace_quantities(text) == replaced
    assert replace_quantities(replaced) == replaced


def test_replacing_names_an_unknown_unit() -> None:
    with pytest.raises(QuantityError, match=r"unknown unit 'Mib' at position 6; did you mean 256MiB\?"):
        replace_quantities("a<=256Mib")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (268435456, "256 MiB"),
        (12288, "12 KiB"),
        (1048575, "1 MiB"),
        (0, "0 B"),
        (-2048, "-2 KiB"),
        (3 * 1024**4, "3 TiB"),
    ],
)
def test_formats_bytes(value: int, text: str) -> None:
    assert format_bytes(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.2, "1.2 s"),
        (250, "4 min 10 s"),
        (59.97, "1 min"),
        (3599.7, "1 h"),
        (90000, "1 d 1 h"),
        (0, "0 s"),
        (-0.002, "-2 ms"),
    ],
)
def test_formats_seconds(value: float, text: str) -> None:
    assert format_seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(28431, "28.43k"), (999.96, "1k"), (0.71234, "0.7123"), (1e13, "10T"), (-5, "-5")]
)
def test_formats_numbers(value: float, text: str) -> None:
    assert format_number(value) == text


@given(st.integers(0, 2**50))
def test_bytes_are_read_back_to_four_digits(n: int) -> None:
    assert parse_quantity(format_bytes(n)) == pytest.approx(n, rel=1e-3)


@given(st.floats(1e-9, 1e7))
def test_seconds_are_read_back_to_two_parts(s: float) -> None:
    assert parse_quantity(format_seconds(s), kind="seconds") == pytest.approx(s, rel=0.05)


@given(st.integers(-(10**12), 10**12), st.sampled_from(["B", "KiB", "MiB", "GiB", "kB", "MB"]))
def test_whole_bytes_are_exact(n: int, unit: str) -> None:
    scale = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "kB": 10**3, "MB": 10**6}[unit]
    assert parse_quantity(f"{n}{unit}", kind="bytes") == n * scale
