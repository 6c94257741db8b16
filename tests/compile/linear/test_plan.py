"""How a plan reads, as text, JSON and page."""

from __future__ import annotations

import json
from pathlib import Path

from mlsysopt.compile.linear.plan import Plan, Product, Uncovered
from mlsysopt.compile.linear.precision import Errors, Outcome, Rung
from mlsysopt.compile.variants.decision import Decision, Segment


def example(**changes: object) -> Plan:
    wide = Decision(
        (
            Segment(1, "panel.f32", 2.12, 1.98, 2.31, "measured", 131e-6, "onednn.packed"),
            Segment(97, "onednn.packed", 1.31, 1.22, 1.4, "model", 4.1e-3, "panel.f32"),
            Segment(385, "aten.nt", source="model", seconds=21e-3, runner_up="onednn.packed"),
        )
    )
    plain = Decision((Segment(1, "aten.nt", source="measured", seconds=12e-6, runner_up="panel.f32"),))
    made = {
        "name": "BertModel",
        "products": (
            Product(768, 3072, "*.intermediate.dense", 12, wide, ("original", "panel"), 9 << 20),
            Product(768, 768, "pooler.dense", 1, plain),
        ),
        "uncovered": (Uncovered("encoder.gate", "reached by a function call", 0.031), Uncovered("head", "quantized")),
        "machine": "AMD EPYC, 2 cores",
        "weights_bytes": 110 << 20,
        "budget_bytes": 110 << 20,
        **changes,
    }
    return Plan(**made)  # pyright: ignore[reportArgumentType]


def test_text_says_everything_in_aligned_columns() -> None:
    text = str(example())
    lines = text.splitlines()
    assert lines[0] == "BertModel: 12 of 13 products adapted, 1.31x to 2.12x where they differ from aten.nt"
    table = [line for line in lines if "panel.f32" in line][0:4]
    for words in ("768 x 3072", "12 *.intermediate.dense", "1..96", "131 us", "2.12x", "[1.98, 2.31]", "measured"):
        assert words in text
    assert "97..384" in text
    assert "385.." in text
    assert "3.1 %" in text
    assert "reached by a function call" in text
    assert "+108 MiB of 110 MiB allowed" in text
    assert "1 thread, cold weights" in text
    assert len({line.index(name) for line, name in zip(table, ("panel.f32", "onednn", "aten.nt"), strict=False)}) == 1
    assert all(line == line.rstrip() for line in lines)
    assert max(map(len, lines)) <= 130


def test_nothing_to_do_is_one_line() -> None:
    assert str(Plan("Net", ())) == "nothing to adapt in Net (0 linear products)"
    plain = example(products=(Product(768, 768, "fc", 2, Decision.always("aten.nt")),), uncovered=())
    assert plain.verdict() == "BertModel: nothing proven faster than aten.nt for any of 2 products; left as it was"
    assert not plain.changed


def test_json_holds_every_segment_and_no_open_numbers() -> None:
    tried = Rung("bf16", Errors(float("inf"), 0.1, 0.01), False, 12)
    plan = example(precision=Outcome("bf16", 0.02, {"a": "f32"}, (tried,)))
    document = json.loads(plan.to_json())
    assert [one["rows"] for one in document["products"][0]["segments"]] == ["1..96", "97..384", "385.."]
    assert document["extra_bytes"] == 108 << 20
    assert document["uncovered"][1]["share"] is None
    assert document["precision"]["tried"][0]["errors"]["largest"] is None
    assert "bf16 refused" in document["precision"]["text"]


def test_page_has_gain_decisions_precision_and_citation(tmp_path: Path) -> None:
    tried = Rung("auto", Errors(0.01, 0.005, 0.001), True, 3, unseen=True)
    plan = example(precision=Outcome("auto", 0.02, {"a": "int8w"}, (tried,)), lines=("no AVX-512: AVX2 panels",))
    page = plan.report(tmp_path / "report", command="mlsysopt linear report").read_text()
    for words in ("768 x 3072", "[1.98, 2.31]", "Not reached", "kept back", "Dice", "no AVX-512", "<svg"):
        assert words in page
