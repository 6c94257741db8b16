"""What a user passes, as canonical arrays: kinds that the model asks for, ragged rows, missing cells, shapes."""

from __future__ import annotations

import numpy as np
import pytest

from mlsysopt.core.errors import UsageError
from mlsysopt.infer.binding import bind, evaluate
from mlsysopt.infer.frontend.source import ModelError, read
from mlsysopt.infer.ir import Call, Const, Get, Index, Reduce, Size, call
from mlsysopt.infer.language import Shape
from tests.infer.frontend.bodies import bound
from tests.infer.written import written

LABELS = "for i in range(len(z)):\n    observe(z[i], Categorical.uniform(3))"
NUMBERS = "for i in range(len(y)):\n    observe(y[i], Normal(0, 1))"


def given(**inputs: object) -> np.ndarray:
    """Return the first input of a model that observes labels or numbers, as it was bound."""
    (name,) = inputs
    return bound(LABELS if name == "z" else NUMBERS, inputs).arrays[name]


@pytest.mark.parametrize(
    "value", [[0, 1, 2], [0.0, 1.0, 2.0], np.array([0, 1, 2], np.int8), np.array([0, 1, 2], np.float32), (0, 1, 2)]
)
def test_labels_are_whole(value: object) -> None:
    found = given(z=value)
    assert found.dtype == np.int64
    assert found.tolist() == [0, 1, 2]
    assert found.flags.c_contiguous


@pytest.mark.parametrize("value", [[0, 1, 2], [False, True, True], np.arange(6)[::2], np.float32([0.5, 1, 2])])
def test_numbers_have_a_fraction(value: object) -> None:
    found = given(y=value)
    assert found.dtype == np.float64
    assert found.flags.c_contiguous


def test_whole_numbers_that_are_read_only_stay_whole() -> None:
    arrays = bound("x = Normal(n[0] * v[0], 1)", {"n": [1, 2], "v": [1.0, 2.0]}).arrays
    assert (arrays["n"].dtype, arrays["v"].dtype) == (np.int64, np.float64)


def test_indices_and_bounds_are_whole() -> None:
    arrays = bound(
        "for i in range(k):\n    observe(y[g[i]], Normal(0, 1))", {"k": 2.0, "y": [1.0, 2.0], "g": [1.0, 0.0]}
    ).arrays
    assert arrays["k"].dtype == arrays["g"].dtype == np.int64


def test_annotations_decide() -> None:
    function, source = written("x = Normal(a, b)", "a: float", "b: int")
    arrays = bind(read(function, source), {"a": 1, "b": 2.0}).arrays
    assert (arrays["a"].dtype, arrays["b"].dtype) == (np.float64, np.int64)
    with pytest.raises(ModelError, match=r":1: b = 2.5 is not whole"):
        bind(read(function, source), {"a": 1, "b": 2.5})


def test_a_label_that_is_not_whole() -> None:
    with pytest.raises(
        ModelError,
        match=r"^<source of one>:3: z\[1\] = 0.5 is not whole, and z is a label, a count or an index; pass whole",
    ):
        given(z=[0, 0.5, 1])


def test_numbers_and_ranks() -> None:
    found = bound("x = Normal(a + b[0] + c[0, 1], 1)", {"a": 0.5, "b": [1.0], "c": np.ones((2, 2))})
    assert [found.program.variables[name].rank for name in "abc"] == [0, 1, 2]
    assert found.arrays["a"].shape == (1,)
    assert found.arrays["c"].shape == (2, 2)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.ones((2, 2, 2)), "y has 3 dimensions; a model takes at most 2"),
        (["a", "b"], "y holds <U1; a model takes numbers"),
        ([1 + 2j], "y holds complex128"),
        ([[[1]], [1, 2]], "y: "),
        (None, "y holds object"),
        (Shape(2, 2, 2), "y has 3 dimensions"),
    ],
)
def test_what_is_no_array(value: object, words: str) -> None:
    with pytest.raises(UsageError) as error:
        given(y=value)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_an_input_that_lacks() -> None:
    with pytest.raises(UsageError, match="one needs z"):
        bind(read(*written(NUMBERS, "y", "z")), {"y": [1.0]})


RAGGED = "for d in range(len(w)):\n    for i in range(len(w[d])):\n        observe(w[d, i], Poisson(1.0))"


@pytest.mark.parametrize("value", [[[0, 1], [2]], [np.array([0, 1]), np.array([2.0])], ([0, 1], [2])])
def test_ragged_rows(value: object) -> None:
    found = bound(RAGGED, {"w": value})
    assert found.arrays["w"].tolist() == [0, 1, 2]
    assert found.arrays["w"].dtype == np.int64
    assert found.starts["w"].tolist() == [0, 2, 3]
    assert found.program.variables["w"].ragged


def test_rows_of_one_length_are_a_matrix_unless_a_tuple() -> None:
    assert not bound(RAGGED, {"w": [[0, 1], [2, 3]]}).starts
    assert bound(RAGGED, {"w": ([0, 1], [2, 3])}).starts["w"].tolist() == [0, 2, 4]


def test_an_empty_row() -> None:
    assert bound(RAGGED, {"w": [np.array([1, 2]), np.zeros(0), np.array([3])]}).starts["w"].tolist() == [0, 2, 2, 3]


def test_missing_cells() -> None:
    with pytest.raises(
        UsageError, match=r"y\[1\] is missing \(NaN or masked\); pass missing='latent' to draw such cells"
    ):
        given(y=[0.0, np.nan])
    found = bound(NUMBERS, {"y": [0.5, np.nan, 1.5]}, missing="latent")
    assert found.missing == ("y",)
    assert found.arrays["y__missing"].tolist() == [0, 1, 0]
    assert found.arrays["y"].tolist() == [0.5, 0.0, 1.5]


def test_masked_labels() -> None:
    value = np.ma.MaskedArray([0, 9, 2], [False, True, False])
    found = bound(LABELS, {"z": value}, missing="latent")
    assert found.arrays["z"].tolist() == [0, 0, 2]
    assert found.arrays["z"].dtype == np.int64
    floats = bound(LABELS, {"z": [0.0, np.nan, 2.0]}, missing="latent")
    assert floats.arrays["z"].tolist() == [0, 0, 2]


def test_missing_cells_of_ragged_rows() -> None:
    found = bound(RAGGED, {"w": [np.array([0, np.nan]), np.array([2.0])]}, missing="latent")
    assert found.arrays["w__missing"].tolist() == [0, 1, 0]
    assert found.program.variables["w__missing"].ragged


def test_nothing_missing_draws_nothing() -> None:
    assert not bound(NUMBERS, {"y": [0.5]}, missing="latent").missing
    with pytest.raises(UsageError, match="missing='drop': allowed are 'error' and 'latent'"):
        bound(NUMBERS, {"y": [0.5]}, missing="drop")


def test_shapes() -> None:
    found = bound("observe(v, Normal(0, 1))\n" + NUMBERS, {"y": Shape(4), "v": Shape()})
    assert found.shapes == {"y", "v"}
    assert found.arrays["y"].shape == (4,)
    assert found.program.variables["v"].rank == 0
    ragged = bound(RAGGED, {"w": [Shape(2), Shape(0), Shape(3)]})
    assert ragged.starts["w"].tolist() == [0, 2, 2, 5]
    assert ragged.shapes == {"w"}


def test_the_hash_is_the_datas() -> None:
    def hashed(y: object) -> str:
        return bound(NUMBERS, {"y": y}).hash()

    assert hashed([1.0, 2.0]) == hashed([1, 2])
    assert hashed([1.0, 2.0]) != hashed([1.0, 2.5])
    assert bound(RAGGED, {"w": ([1, 2], [3])}).hash() != bound(RAGGED, {"w": ([1], [2, 3])}).hash()


def test_lengths_of_variables() -> None:
    found = bound(
        "z = array(int, like=w)\np = Dirichlet(1.0, k).rows(len(w))\n"
        + RAGGED.replace("observe(w[d, i], Poisson(1.0))", "z[d, i] = Categorical(p[d])"),
        {"w": ([1, 2], [3]), "k": 4},
    )
    variables = found.program.variables
    assert found.lengths(variables["z"]) == (3,)
    assert found.lengths(variables["p"]) == (2, 4)
    starts = found.starts_of(variables["z"])
    assert starts is not None
    assert starts.tolist() == [0, 2, 3]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        (Const(2.5), 2.5),
        (Get("y", (Const(1),)), 2.0),
        (Get("w", (Const(1), Const(0))), 3),
        (Size("y"), 3),
        (Size("w"), 2),
        (Size("w", 1, (Const(0),)), 2),
        (call("-", Size("y"), Index("i")), 1),
        (Reduce("add", "j", Const(0), Size("y"), Get("y", (Index("j"),))), 7.0),
        (Reduce("mul", "j", Const(0), Size("y"), Get("y", (Index("j"),))), 8.0),
        (Reduce("max", "j", Const(0), Index("i"), Get("y", (Index("j"),))), 2.0),
        (Reduce("add", "d", Const(0), Size("w"), Size("w", 1, (Index("d"),))), 3),
        (Reduce("add", "d", Const(0), Const(0), Index("d")), 0),
        (Reduce("and", "j", Const(0), Size("y"), Call(">", (Get("y", (Index("j"),)), Const(0)))), True),
        (Call("select", (Call(">", (Index("i"), Const(2))), Get("y", (Index("i"),)), Const(-1))), -1),
        (Call("and", (Call("<", (Index("i"), Const(2))), Call(">", (Get("y", (Const(9),)), Const(0))))), False),
        (Call("//", (Const(7), Index("i"))), 3),
        (Call("%", (Const(7), Index("i"))), 1),
        (Call("**", (Const(2), Index("i"))), 4),
        (Call("sigmoid", (Const(0.0),)), 0.5),
        (Call("min", (Size("y"), Const(2))), 2),
        (Call("not", (Const(False),)), True),
        (Call("cells", ()), 3),
    ],
)
def test_evaluate(expression: object, value: float) -> None:
    model = bound(RAGGED + "\n" + NUMBERS, {"w": ([1, 2], [3]), "y": [1.0, 2.0, 4.0]})
    found = evaluate(expression, model, {"i": 2})  # type: ignore[arg-type]
    assert found == value
    assert type(found) is type(value)


def test_evaluate_refuses_latents() -> None:
    model = bound("x = Normal(0, 1)")
    with pytest.raises(ValueError, match="x does not follow from the inputs"):
        evaluate(Get("x"), model)
