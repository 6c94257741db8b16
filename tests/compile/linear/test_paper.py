"""The literal policy: two forms, timed when first seen, one entry for every number of rows."""

from __future__ import annotations

import pytest

from mlsysopt.compile.linear.paper import FirstSeen

torch = pytest.importorskip("torch")


class Clock:
    """Seconds as planted: each reading of the pair is one entry apart."""

    def __init__(self, *seconds: float) -> None:
        self.readings = [0.0]
        for one in seconds:
            self.readings += [self.readings[-1] + one, self.readings[-1] + one]
        self.place = -1

    def __call__(self) -> float:
        self.place += 1
        return self.readings[self.place]


def product(bias: bool = True, clock: Clock | None = None) -> tuple[FirstSeen, object, object]:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(24, 16, generator=generator)
    added = torch.randn(24, generator=generator) if bias else None
    made = FirstSeen(weights, added) if clock is None else FirstSeen(weights, added, clock=clock)
    return made, weights, added


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_both_forms_give_the_product(bias: bool, rows: int) -> None:
    made, weights, added = product(bias)
    x = torch.randn(rows, 16, generator=torch.Generator().manual_seed(rows))
    truth = torch.nn.functional.linear(x, weights, added)
    for form in ("nt", "nn"):
        made.seen = {(rows, torch.get_num_threads()): form}
        torch.testing.assert_close(made(x), truth)
    made.seen = {}
    torch.testing.assert_close(made(x), truth)


def test_the_first_call_decides_for_ever_and_for_this_number_of_rows_alone() -> None:
    made, _, _ = product(clock=Clock(2.0, 1.0, 1.0, 3.0))
    threads = torch.get_num_threads()
    made(torch.ones(4, 16))
    made(torch.ones(5, 16))
    made(torch.ones(4, 16))
    assert made.seen == {(4, threads): "nn", (5, threads): "nt"}


def test_the_table_grows_with_every_number_of_rows() -> None:
    made, _, _ = product()
    for rows in range(1, 40):
        made(torch.ones(rows, 16))
    assert len(made.seen) == 39
    assert made.extra_bytes == 24 * 16 * 4
