"""What an imported program carries besides its meaning: places, weights, names, facts."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mlsysopt.core.errors import UsageError
from mlsysopt.graph.facts import Answer, eq
from mlsysopt.graph.importers import from_exported, from_torch
from mlsysopt.graph.importers.examples import example_sizes, example_tensors
from mlsysopt.graph.importers.sympy_dims import Sizes, SizeUnknown
from mlsysopt.graph.interpreter import interpret
from mlsysopt.graph.sources import OfTorch
from mlsysopt.graph.symbolic import Dim, dims
from mlsysopt.graph.types import boolean, f32, i64
from tests.graph.importers.models import graph_of

B, S = dims("B", "S", max=(16, 64))


class Tied(nn.Module):
    """A language model whose head is its table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("scale", torch.tensor(0.5), persistent=False)
        self.unused = nn.Linear(3, 3)
        self.eval()

    def forward(self, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        h = self.table(ids) * self.scale
        return self.head(h), {"hidden": h, "again": h + 1}


def test_tied_weights_are_one_constant_and_unused_ones_none() -> None:
    module = Tied()
    graph = from_torch(module, {"ids": i64[B, S]})
    assert [(one.label, str(one.type)) for one in graph.constants] == [
        ("table.weight", "f32[11, 8]"), ("scale", "f32[]"),
    ]  # fmt: skip
    source = graph.constant("table.weight").source
    assert isinstance(source, OfTorch)
    assert source.tensor.data_ptr() == module.table.weight.data_ptr()  # shared, not copied


def test_outputs_have_the_names_that_the_model_gives_them() -> None:
    graph = from_torch(Tied(), {"tokens": i64[B, S]})
    assert [value.name for value in graph.inputs] == ["tokens"]
    assert [value.name for value in graph.outputs] == ["out0", "out1_hidden", "out1_again"]
    assert graph.name == "Tied"
    assert from_torch(Tied(), {"ids": i64[B, S]}, name="lm").name == "lm"


def test_every_op_knows_its_line_and_module() -> None:
    graph = graph_of("bert")
    linear = next(op for op in graph.ops if op.kind == "linear")
    assert linear.loc.file == "modeling_bert.py" and linear.loc.line > 0
    assert linear.loc.module == "encoder.layer.0.attention.self.query"
    assert not [op for op in graph.ops if not op.loc.line and op.kind != "full"]


class Selects(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        p, q = x[x > 0], y[y > 0]
        torch._check(p.shape[0] == q.shape[0])
        torch._check(p.shape[0] >= 1)
        torch._check(p.shape[0] <= 5)
        return p + q


def test_what_the_model_asserts_becomes_a_fact_with_its_line() -> None:
    graph = from_torch(Selects().eval(), {"x": f32[B], "y": f32[S]})
    assert graph.facts.eq(Dim.of("u0"), Dim.of("u1")) is Answer.YES
    (origin,) = graph.facts.why(eq(Dim.of("u0"), Dim.of("u1"))).origins
    assert origin.what == "assertion" and origin.where.startswith("test_torch_structure.py:")
    assert graph.facts.range("u0") == (1, 5)
    assert graph.facts.range("B") == (1, 16)
    found = interpret(graph, x=np.array([1.0, -1.0, 2.0]), y=np.array([3.0, 4.0]))
    np.testing.assert_array_equal(found["out"], [4.0, 6.0])


def test_a_program_without_declared_inputs_gets_short_symbols_and_torchs_ranges() -> None:
    class Wide(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x @ y

    auto = torch.export.Dim.AUTO
    exported = torch.export.export(
        Wide().eval(), (torch.zeros(4, 5), torch.zeros(5, 6)), dynamic_shapes=({0: auto, 1: auto}, {0: auto, 1: auto})
    )
    graph = from_exported(exported, name="wide")
    assert [str(value.type) for value in graph.inputs] == ["f32[s0, s1]", "f32[s1, s2]"]
    assert str(graph.outputs[0].type) == "f32[s0, s2]"


def test_one_symbol_in_two_inputs_is_one_dimension() -> None:
    graph = from_torch(Adds().eval(), {"x": f32[B, S], "y": f32[B, S]})
    assert str(graph.outputs[0].type) == "f32[B, S]"
    product = from_torch(Adds().eval(), {"x": f32[B * S], "y": f32[B * S]})
    assert product.outputs[0].shape == (B * S,)


class Adds(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


def test_two_declared_symbols_of_one_exported_dimension_are_equal_by_a_fact() -> None:
    free = torch.export.Dim("free", min=1, max=9)
    exported = torch.export.export(
        Adds().eval(), (torch.zeros(4), torch.zeros(4)), dynamic_shapes=({0: free}, {0: free}), strict=False
    )
    graph = from_exported(exported, inputs={"x": f32["P"], "y": f32["Q"]})
    assert graph.facts.eq(Dim.of("P"), Dim.of("Q")) is Answer.YES
    assert graph.facts.range("Q") == (1, 9)


def test_a_declared_symbol_is_not_taken_for_one_that_torch_makes() -> None:
    (mine,) = dims("u0", max=16)
    graph = from_torch(Selects().eval(), {"x": f32[mine], "y": f32[S]})
    fresh = [op.attrs["symbol"] for op in graph.ops if op.kind == "masked_select"]
    assert fresh == ["u0_", "u1"]


def test_numbers_and_inputs_may_be_outputs() -> None:
    class Passes(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, int, Tensor, None]:
            return x, x.shape[0] * 2, x + 0, None

    graph = from_torch(Passes().eval(), {"x": f32[B, 3]})
    assert [value.name for value in graph.outputs] == ["x", "out1", "x"]
    assert [op.kind for op in graph.ops] == ["size"]
    assert graph.ops[0].attrs["dim"] == B * 2


def test_weights_without_data_stay_apart() -> None:
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    exported = torch.export.export(module, (torch.empty(3, 4, device="meta"),))
    assert [one.label for one in from_exported(exported).constants] == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_example_sizes_are_odd_different_and_within_range() -> None:
    n, h, w = dims("N", "H", "W", min=(1, 33, 33), max=(8, 96, 96))
    sizes = example_sizes({"x": f32[n, 3, h, w]})
    assert len({*sizes.values(), 3}) == 4
    assert all(size % 2 for size in sizes.values())
    assert 33 < sizes["H"] <= 96 and 33 < sizes["W"] <= 96 and 3 < sizes["N"] <= 8
    (two,) = dims("T", max=2)
    assert example_sizes({"x": f32[two]}) == {"T": 2}
    (one,) = dims("U", max=1)
    with pytest.raises(UsageError, match=r"dimension U: its range 1..1 holds no size above 1"):
        example_sizes({"x": f32[one]})


def test_example_integers_fit_the_smallest_embedding() -> None:
    module = nn.ModuleList([nn.Embedding(50, 2), nn.Embedding(3, 2)])
    made = example_tensors({"ids": i64[B, S], "x": f32[B], "keep": boolean[B]}, module)
    assert int(made["ids"].max()) < 3 and int(made["ids"].min()) >= 0
    assert made["keep"].dtype is torch.bool and made["x"].dtype is torch.float32
    assert made["ids"].shape[0] == made["x"].shape[0]


def test_sizes_are_translated_from_sympy() -> None:
    import sympy
    from torch.utils._sympy import functions as of_torch

    a, b = sympy.symbols("s0 s1", integer=True, positive=True)
    sizes = Sizes({"s0": Dim.of("B"), "s1": Dim.of("S")})
    cases = {
        a * b + 1: Dim.of("B") * Dim.of("S") + 1,
        a**2: Dim.of("B") * Dim.of("B"),
        of_torch.FloorDiv(a - 1, 2): (Dim.of("B") - 1) // 2,
        of_torch.Mod(a, 4): Dim.of("B") % 4,
        of_torch.PythonMod(a - b, 4): (Dim.of("B") - Dim.of("S")) % 4,
        of_torch.CeilDiv(a, 3): Dim.parse("ceildiv(B, 3)"),
        of_torch.ModularIndexing(a, 2, 3): (Dim.of("B") // 2) % 3,
        of_torch.Max(a, b): Dim.parse("max(B, S)"),
        of_torch.Min(a, 7): Dim.parse("min(B, 7)"),
        of_torch.TruncToInt(of_torch.IntTrueDiv(a, b)): Dim.of("B") // Dim.of("S"),
    }
    for expression, expected in cases.items():
        assert sizes.of(expression) == expected, expression
    assert sizes.of(sympy.Rational(1, 2) * (a * 2)) == Dim.of("B")
    assert sizes.of(sympy.Symbol("u0")) == Dim.of("u0") and sizes.fresh == {"u0"}
    with pytest.raises(SizeUnknown, match="no operation on integers"):
        sizes.of(sympy.sqrt(a))


def test_reading_the_package_loads_no_torch() -> None:
    code = (
        "import sys, mlsysopt.graph as g, mlsysopt.graph.importers as i, mlsysopt.graph.exporters as e; "
        "i.from_torch, e.to_torch; print([m for m in ('torch', 'sympy', 'onnx') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
