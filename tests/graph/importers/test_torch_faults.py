"""What cannot be imported is refused with its place and the way out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlsysopt.core.errors import UsageError
from mlsysopt.graph.errors import ImportFailed
from mlsysopt.graph.importers import from_exported, from_torch, load_pt2
from mlsysopt.graph.interpreter import interpret, relative_error
from mlsysopt.graph.symbolic import dims
from mlsysopt.graph.types import f32, i64

B, S = dims("B", "S", max=(16, 64))


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.eval()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        h = self.table(ids)
        batch, _heads, _rows, length = mask.shape
        return h * mask.reshape(batch, length, 1)


def test_a_wrong_rank_names_the_input_the_rank_and_the_line() -> None:
    with pytest.raises(UsageError) as caught:
        from_torch(Masked(), {"ids": i64[B, S], "mask": i64[B, S]})
    text = str(caught.value)
    assert text.startswith("input 'mask': expected i64[B, S], model needs rank 4 (test_torch_faults.py:"), text
    assert caught.value.exit_code == 2


def test_a_wrong_element_type_names_the_input_and_the_type() -> None:
    with pytest.raises(UsageError, match=r"input 'ids': expected f32\[B, S\], model needs element type i64"):
        from_torch(Masked(), {"ids": f32[B, S], "mask": i64[B, 1, 1, S]})


def test_a_wrong_width_is_told_with_all_inputs() -> None:
    with pytest.raises(UsageError, match=r"Linear cannot take inputs input: f32\[B, 7\].*cannot be multiplied"):
        from_torch(nn.Linear(8, 2).eval(), {"input": f32[B, 7]})


def test_input_names_are_checked_against_forward() -> None:
    module = Masked()
    with pytest.raises(UsageError, match="has no parameter 'maks'; did you mean mask"):
        from_torch(module, {"ids": i64[B, S], "maks": i64[B, 1, 1, S]})
    with pytest.raises(UsageError, match=r"needs mask too; given are ids"):
        from_torch(module, {"ids": i64[B, S]})
    with pytest.raises(UsageError, match=r"takes 2 inputs \(ids, mask\), but 1 are declared: tokens"):
        from_torch(module, {"tokens": i64[B, S]})
    with pytest.raises(UsageError, match="needs the types of its inputs"):
        from_torch(module, {})
    with pytest.raises(UsageError, match=r"a dict from names to types is needed, .* got a tuple"):
        from_torch(module, (torch.zeros(2, 3),))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"takes a torch.nn.Module, got function"):
        from_torch(F.relu, {"x": f32[B]})  # type: ignore[arg-type]


def test_an_input_must_be_a_type() -> None:
    with pytest.raises(UsageError, match=r"input 'x': a type such as f32\[B, 3\] is needed, got Tensor"):
        from_torch(nn.Linear(8, 2).eval(), {"x": torch.zeros(2, 8)})  # type: ignore[dict-item]


def test_a_module_in_training_mode_is_refused() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    with pytest.raises(UsageError, match="the module is in training mode") as caught:
        from_torch(module, {"x": f32[B, 4]})
    assert "model.eval()" in str(caught.value) and "train=True" in str(caught.value)
    assert caught.value.exit_code == 2
    module.eval()
    module[1].train()
    with pytest.raises(UsageError, match="Sequential: '1' is in training mode"):
        from_torch(module, {"x": f32[B, 4]})


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + self.calls


def test_a_module_that_changes_its_buffers_is_refused() -> None:
    with pytest.raises(UsageError, match="Counting: its forward changes calls; a program has no state") as caught:
        from_torch(Counting(), {"x": f32[B]})
    assert caught.value.exit_code == 2


class Loss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x).square().mean()


def test_a_training_step_with_running_statistics_is_refused() -> None:
    with pytest.raises(UsageError, match=r"changes norm.running_mean, .*\n.*freeze those normalisations"):
        from_torch(Loss().train(), {"x": f32[B, 4]}, train=True)


def test_a_training_step_needs_a_scalar_loss() -> None:
    with pytest.raises(ImportFailed, match="the first output must be a scalar loss"):
        from_torch(nn.Linear(4, 2), {"x": f32[B, 4]}, train=True)


class Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool1d(x, 2)  # torch's kernel for it knows plain numbers only


class Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, : x.shape[1] // 2] * 2


class Differences(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x[:, 1:] - x[:, :-1]).softmax(1) + torch.zeros(x.shape[0], x.shape[1] - 1).sum(1, keepdim=True)


class Strided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[nn.Conv2d(1, 1, 3, 2, 1) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def test_a_dimension_that_torch_fixes_is_told_with_the_constant() -> None:
    with pytest.raises(ImportFailed, match="torch fixed S to the constant 37") as caught:
        from_torch(Fixed().eval(), {"x": f32[B, S]})
    assert "declare 37 instead of S; pass examples=" in str(caught.value)
    assert caught.value.exit_code == 1


def test_a_dimension_of_one_remainder_is_told_as_a_formula() -> None:
    with pytest.raises(ImportFailed, match=r"holds only for S = 2\*_S .*; torch takes _S in \d+..32"):
        from_torch(Halved().eval(), {"x": f32[B, S]})


def test_the_range_that_torch_takes_is_handed_on() -> None:
    h, w = dims("H", "W", max=(64, 64))
    with pytest.raises(ImportFailed, match=r"only H in 9..64, W in 9..64\ndeclare that range"):
        from_torch(Strided().eval(), {"x": f32[B, 1, h, w]})


def test_a_formula_declared_as_such_is_imported() -> None:
    (half,) = dims("half", min=2, max=20)
    graph = from_torch(Halved().eval(), {"x": f32[B, 2 * half + 1]}, symbols=(half,))
    assert str(graph.outputs[0].type) == "f32[B, half]"
    assert graph.facts.range(half) == (2, 20)
    x = torch.randn(3, 9, dtype=torch.float64)
    assert relative_error(interpret(graph, x=x.numpy())["out"], Halved()(x).numpy()) < 1e-12


def test_examples_of_other_sizes_are_taken() -> None:
    graph = from_torch(Fixed().eval(), {"x": f32[B, 5]}, examples={"x": torch.zeros(7, 5)})
    assert str(graph.outputs[0].type) == "f32[B, 2]"
    with pytest.raises(UsageError, match=r"example 'x': expected f32\[B, 5\], got f32\[7\]"):
        from_torch(Fixed().eval(), {"x": f32[B, 5]}, examples={"x": torch.zeros(7)})
    with pytest.raises(UsageError, match="examples are for y, inputs are x"):
        from_torch(Fixed().eval(), {"x": f32[B, 5]}, examples={"y": torch.zeros(7, 5)})


class Sorted(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        values, places = torch.topk(x, 3, dim=1)
        return {"best": values * 2, "where": places, "sorted": torch.sort(x, 1).values[:, :2], "more": x.cummax(1)[0]}


def test_unknown_operators_are_named_all_at_once_with_their_lines() -> None:
    with pytest.raises(ImportFailed) as caught:
        from_torch(Sorted().eval(), {"x": f32[B, 6]})
    text = str(caught.value)
    assert text.startswith("3 ATen operators cannot be imported: aten.topk.default at test_torch_faults.py:")
    assert "aten.sort.default" in text and "aten.cummax.default" in text
    assert text.endswith("opaque='keep' keeps them as opaque.aten, executed by torch")
    assert len(text.splitlines()) <= 3


def test_unknown_operators_can_be_kept() -> None:
    module = Sorted().eval()
    graph = from_torch(module, {"x": f32[B, 6]}, opaque="keep")
    assert [op.attrs["target"] for op in graph.ops if op.kind == "opaque.aten"] == [
        "aten.topk.default", "aten.sort.default", "aten.cummax.default",
    ]  # fmt: skip
    graph.verify()
    for rows in (1, 4):
        x = torch.randn(rows, 6, dtype=torch.float64)
        found = interpret(graph, x=x.numpy())
        for name, tensor in module(x).items():
            assert relative_error(found[name], tensor.numpy()) < 1e-12


def test_opaque_is_one_of_two_words() -> None:
    with pytest.raises(UsageError, match="opaque='maybe': allowed are 'error' and 'keep'"):
        from_torch(Fixed().eval(), {"x": f32[B, 5]}, opaque="maybe")  # type: ignore[arg-type]


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x - 1


def test_control_flow_on_values_is_told_with_its_line() -> None:
    with pytest.raises(ImportFailed, match=r"Branching cannot be exported by torch.*\n.*from_exported") as caught:
        from_torch(Branching().eval(), {"x": f32[B]})
    assert len(str(caught.value).splitlines()) <= 3


def test_a_squeeze_that_would_drop_a_size_of_one_says_so_in_the_facts() -> None:
    class Squeezed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.squeeze()

    graph = from_torch(Squeezed().eval(), {"x": f32[B, 1, 3]})
    assert graph.facts.range(B) == (2, 16)
    with pytest.raises(UsageError, match="squeeze"):
        interpret(graph, x=torch.zeros(1, 1, 3).numpy())


def test_a_saved_program_is_read(tmp_path: Path) -> None:
    free = torch.export.Dim("rows", min=1, max=9)
    exported = torch.export.export(Fixed().eval(), (torch.zeros(4, 5),), dynamic_shapes=({0: free},))
    graph = from_exported(exported)
    assert [str(value.type) for value in graph.inputs] == ["f32[s0, 5]"]
    assert graph.facts.range("s0") == (1, 9)
    torch.export.save(exported, tmp_path / "fixed.pt2")
    loaded = load_pt2(tmp_path / "fixed.pt2", inputs={"pixels": f32[B, 5]})
    assert loaded.name == "fixed" and str(loaded.input("pixels").type) == "f32[B, 5]"
    with pytest.raises(ImportFailed, match="dimension S was fixed by torch to the constant 5"):
        from_exported(exported, inputs={"x": f32[B, S]})
    with pytest.raises(UsageError, match=r"input 'x': expected i64\[B, 5\], model needs element type f32"):
        from_exported(exported, inputs={"x": i64[B, 5]})
    with pytest.raises(UsageError, match="2 inputs are declared"):
        from_exported(exported, inputs={"x": f32[B, 5], "y": f32[B, 5]})


def test_a_file_that_is_no_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        load_pt2(tmp_path / "none.pt2")
    (tmp_path / "bad.pt2").write_bytes(b"no archive")
    with pytest.raises(UsageError, match=r"not a program saved by torch.export.save"):
        load_pt2(tmp_path / "bad.pt2")
