"""The command line's grammar: rooms, verbs, help, exit codes, one word for one thing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from mlsysopt.cli import main as root
from mlsysopt.cli.main import ROOMS, run
from mlsysopt.cli.options import GLOSSARY

HEAVY = ("torch", "numpy", "optuna", "sklearn", "matplotlib", "ray", "rich", "pydantic", "sqlalchemy")


def commands(
    group: click.Group | None = None, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command of the tree with its words."""
    group = group or root.main
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = list(commands())


@pytest.mark.parametrize("words", [(), *[path for path, _ in ALL]], ids=lambda words: " ".join(words) or "root")
def test_every_help_is_shown_and_ends_with_0(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, "--help"]) == 0
    assert "Usage: mlsysopt" in capsys.readouterr().out


@pytest.mark.parametrize("words", [path for path, _ in ALL], ids=" ".join)
def test_flags_mean_what_the_glossary_says(words: tuple[str, ...]) -> None:
    command = dict(ALL)[words]
    for parameter in command.params:
        for flag in parameter.opts:
            if flag in GLOSSARY and isinstance(parameter, click.Option):
                assert parameter.help == GLOSSARY[flag]


@pytest.mark.parametrize("words", [path for path, command in ALL if not isinstance(command, click.Group)], ids=" ".join)
def test_every_verb_speaks_json_and_has_a_first_line(words: tuple[str, ...]) -> None:
    command = dict(ALL)[words]
    assert "--json" in {flag for parameter in command.params for flag in parameter.opts}
    assert command.help and command.help.splitlines()[0].endswith((".", ":"))


def test_rooms_are_listed_by_area(capsys: pytest.CaptureFixture[str]) -> None:
    run(["--help"])
    shown = capsys.readouterr().out
    assert [shown.index(area) for area in ROOMS] == sorted(shown.index(area) for area in ROOMS)


@pytest.mark.parametrize(
    "words",
    [["--help"], ["tune", "--help"], ["tune", "run", "--help"], ["doctor", "--help"], ["data", "--help"]],
    ids=" ".join,
)
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys, json\nfrom mlsysopt.cli.main import run\n"
        f"code = run({words!r})\n"
        f"print(json.dumps([code, [m for m in {HEAVY!r} if m in sys.modules]]), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stderr.splitlines()[-1]) == [0, []]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["tun"], "did you mean tune?"),
        (["tune", "rum"], "run"),
        (["tune", "run", "rocksdbb"], "did you mean rocksdb?"),
        (["tune", "run", "rocksdb", "--budgte", "3"], "--budget"),
        (["tune", "resume", "nowhere.db"], "nowhere.db"),
        (["data", "get", "mnits"], "did you mean mnist?"),
        (["cite", "nowhere.db"], "nowhere.db"),
        (["tune", "run", "rocksdb", "--set", "num"], "KEY=VALUE"),
        (["tune", "verify", "nowhere.db"], "nowhere.db"),
        (["report", "nowhere.db"], "nowhere.db"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_what_cannot_be_meant_is_one_line_and_2(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(ValueError, match="did you mean rocksdb"):
        run(["tune", "run", "rocksdbb", "--debug"])


def test_config_file_gives_defaults_and_a_flag_beats_it(tmp_path: object) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "tune.toml"
    path.write_text('budgett = "3"\n')
    done = subprocess.run(
        [sys.executable, "-m", "mlsysopt", "tune", "run", "rocksdb", "--config", str(path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "did you mean budget?" in done.stderr
