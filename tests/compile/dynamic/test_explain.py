"""What an executable says about itself."""

from __future__ import annotations

import numpy as np
import pytest

from mlsysopt.compile.dynamic import build
from mlsysopt.compile.dynamic.executable import Executable
from mlsysopt.compile.dynamic.locate import first_wrong
from mlsysopt.compile.errors import InputError
from mlsysopt.compile.variants.decision import Decision
from mlsysopt.core.errors import UsageError
from mlsysopt.graph import Builder, dims, f32
from mlsysopt.graph.facts import Origin

B, S = dims("B", "S", max=(64, 512))


@pytest.fixture(scope="module")
def made() -> Executable:
    b = Builder("net")
    x, z = b.input("x", f32[B, S, 16]), b.input("z", f32[B, "T", 16])
    b.facts = b.facts.with_equal("S", "T", Origin("add", "bert.py:214"))
    w = b.constant("w", np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32))
    y = b.op("linear", b.op("add", x, z), w, name="lin")
    y = b.op("cumsum", b.op("softmax", y, axis=2), axis=1, name="total")
    return build(b.finish([y]), None, {"lin": Decision.of([(1, "panel.f32"), (33, "panel.bf16w")])})


def test_it_tells_symbols_facts_with_origins_and_memory(made: Executable) -> None:
    text = str(made.explain(B=1, S=37))
    assert text.startswith("net at B=1, S=37")
    assert "B in 1..64" in text and "S in 1..512" in text
    assert "S = T (add at bert.py:214)" in text
    assert f"B = {made.memory_bound(B=1, S=37).bytes} B at" in text.replace("B B", "B")


def test_it_tells_which_kernel_runs_at_a_size(made: Executable) -> None:
    few, many = made.explain(B=1, S=32), made.explain(B=1, S=33)
    kernel = {row.label.split()[0]: (row.kernel, row.choice) for row in few.rows}["linear"]
    assert kernel == ("gemm_f32", "case 1 of 2: B*S < 33")
    kernel = {row.label.split()[0]: (row.kernel, row.choice) for row in many.rows}["linear"]
    assert kernel == ("gemm_bf16", "case 2 of 2: otherwise")
    assert few.decisions == ("%lin: panel.f32 from 1 rows (roofline), panel.bf16w from 33 rows (roofline)",)


def test_ops_outside_native_code_are_listed_with_the_reason(made: Executable) -> None:
    assert made.explain().outside == ("cumsum %total: no native form; runs through torch",)


def test_steps_are_timed_when_asked(made: Executable) -> None:
    quiet, timed = made.explain(B=2, S=8), made.explain(B=2, S=8, measure=True)
    assert quiet.measured_us is None
    assert all(row.measured_us is not None and row.measured_us > 0 for row in timed.rows)
    assert timed.measured_us == pytest.approx(sum(row.measured_us or 0 for row in timed.rows))
    assert all(row.predicted_us for row in quiet.rows if row.kernel != "python")


def test_sizes_that_are_left_out_are_typical_ones(made: Executable) -> None:
    assert dict(made.explain(S=5).sizes) == {"B": 8, "S": 5}
    with pytest.raises(UsageError, match="net has no symbol 'Q'"):
        made.explain(Q=1)
    with pytest.raises(InputError, match=r"S = 600 but S in 1\.\.512"):
        made.explain(S=600)


def test_a_plan_is_text(made: Executable) -> None:
    lines = str(made.plan).splitlines()
    assert lines[0].startswith("plan net(B, S")
    assert "  constant0 = w packed f32" in lines
    assert "  if B*S < 33:" in lines
    assert any(line.strip().startswith("python0(") for line in lines)


def test_steps_one_by_one_do_what_a_call_does(made: Executable) -> None:
    x = np.random.default_rng(0).standard_normal((2, 5, 16)).astype(np.float32)
    assert first_wrong(made, {"x": x, "z": x}) == ""
