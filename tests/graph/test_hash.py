"""The canonical hash: the same for what means the same by construction, another one for what does not."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from mlsysopt.graph import Builder, Graph, canonical_hash, f32, parse

HEAD = "graph @f(%x: f32[B, 4], %y: f32[B, 4]) where B in 1..8 {\n"
BASE = HEAD + "%a = add(%x, %y) : f32[B, 4] %b = exp(%y) : f32[B, 4] %c = sub(%a, %b) : f32[B, 4] return %c }"


@pytest.mark.parametrize(
    "text",
    [
        BASE.replace("%a", "%first").replace("%b", "%second").replace("@f", "@other"),
        BASE.replace("%x", "%in"),
        BASE.replace("add(%x, %y)", "add(%y, %x)"),
        HEAD + "%b = exp(%y) : f32[B, 4] %a = add(%x, %y) : f32[B, 4] %c = sub(%a, %b) : f32[B, 4] return %c }",
        BASE.replace(" return", " %dead = neg(%c) : f32[B, 4] return"),
        BASE.replace("f32[B, 4] %b", "f32[B, 4]  // here.py:7 layer\n %b"),
    ],
    ids=["names of values", "names of inputs", "commuted", "order", "dead code", "source lines"],
)
def test_what_means_the_same_has_one_hash(text: str) -> None:
    assert canonical_hash(parse(text)) == canonical_hash(parse(BASE))


@pytest.mark.parametrize(
    "text",
    [
        BASE.replace("add", "mul"),
        BASE.replace("sub(%a, %b)", "sub(%b, %a)"),
        BASE.replace("1..8", "1..9"),
        BASE.replace("B", "C"),
        BASE.replace("f32", "f64"),
        BASE.replace("return %c", "return %c, %c"),
        BASE.replace("return %c", "return %a"),
        BASE.replace("exp(%y)", "exp(%x)"),
        BASE.replace("%x: f32[B, 4], %y: f32[B, 4]", "%y: f32[B, 4], %x: f32[B, 4]").replace("exp(%y)", "exp(%y)"),
        BASE.replace("%x: f32[B, 4]", "%x: f32[B, 4]{1, 0}"),
    ],
    ids=[
        "kind",
        "operands",
        "facts",
        "symbol",
        "element type",
        "outputs",
        "output",
        "input read",
        "input order",
        "layout",
    ],
)
def test_what_differs_has_another(text: str) -> None:
    assert canonical_hash(parse(text)) != canonical_hash(parse(BASE))


def with_weight(values: np.ndarray, name: str = "w") -> Graph:
    builder = Builder("f")
    x = builder.input("x", f32[2])
    return builder.finish([builder.op("add", x, builder.constant(name, values))])


def test_weights_count_by_their_content() -> None:
    ones = np.ones(2, np.float32)
    assert canonical_hash(with_weight(ones)) == canonical_hash(with_weight(ones.copy(), "other"))
    assert canonical_hash(with_weight(ones)) != canonical_hash(with_weight(ones * 2))


def test_attributes_count_by_type_as_well() -> None:
    one = parse("graph @f() { %c = full() {dtype = f32, shape = [], value = 1} : f32[] return %c }")
    other = replace(one, ops=(replace(one.ops[0], attrs=one.ops[0].attrs.changed(value=1.0)),))
    assert one != other
    assert canonical_hash(one) != canonical_hash(other)


def test_another_process_computes_the_same() -> None:
    code = f"from mlsysopt.graph import canonical_hash, parse; print(canonical_hash(parse({BASE!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == canonical_hash(parse(BASE))
