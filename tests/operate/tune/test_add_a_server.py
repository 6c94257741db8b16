"""The guide docs/how-to/add-a-server.md shows what really stands in the example, and commands that exist."""

from __future__ import annotations

import ast
import re
import shlex
import textwrap
from pathlib import Path

import click
import pytest

from mlsysopt.cli.tune import tune

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "how-to" / "add-a-server.md").read_text()
EXAMPLE = (ROOT / "examples" / "servers" / "memcached.py").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)


TEST, SHOWN = [b for b in blocks("python") if "testing" in b], [b for b in blocks("python") if "testing" not in b]


@pytest.mark.parametrize("block", SHOWN, ids=range(len(SHOWN)))
def test_code_of_the_guide_stands_in_the_example(block: str) -> None:
    there = {ast.dump(node) for node in ast.walk(ast.parse(EXAMPLE))}
    for node in ast.parse(textwrap.dedent(block)).body:
        assert ast.dump(node) in there, ast.unparse(node)


def test_there_is_something_to_compare() -> None:
    assert len(SHOWN) >= 6 and len(TEST) == 1


def test_the_contract_of_the_guide_parses() -> None:
    ast.parse(textwrap.dedent(TEST[0]))


def test_commands_of_the_guide_exist_with_their_options() -> None:
    lines = [line.removeprefix("$ ") for line in blocks("console")[0].splitlines()]
    verbs = [shlex.split(line)[2] for line in lines]
    assert verbs == ["show", "discover", "run", "explain", "compare"]
    for line in lines:
        _, group, verb, _what, *words = shlex.split(line)
        assert group == "tune"
        command = tune.commands[verb]
        known = {name for one in command.params if isinstance(one, click.Option) for name in one.opts}
        assert {word for word in words if word.startswith("-")} <= known, line
