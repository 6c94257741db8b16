"""An engine is taken to another process without its rules, and runs there as it does here."""

from __future__ import annotations

import pickle

import numpy as np

from mlsysopt.infer.compiled import Model
from mlsysopt.infer.sampling import Request, run_chain
from tests.infer.models import cases


def test_another_process_draws_the_same_from_its_own_search_for_a_start() -> None:
    case = next(one for one in cases() if one.name == "d-scales")
    blank = Model(case.function)(**case.inputs)
    data = blank.execute(seed=5)
    here = blank.bind(**{name: data[name] for name in blank.executes_only}).engine(20)
    there = pickle.loads(pickle.dumps(here))
    assert "plan" not in vars(there)
    request = Request(draws=20, warmup=10, seed=4, backend="python")
    one, other = (run_chain(engine, request, 0) for engine in (here, there))
    assert one.draws.keys() == other.draws.keys()
    assert all(np.array_equal(one.draws[name], other.draws[name]) for name in one.draws)
