"""Whoever writes a server file and breaks the protocol is told where, and what is wanted instead."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from mlsysopt.core.errors import InfrastructureError, MlsysoptError, UsageError
from mlsysopt.core.target import Failure, Limits, Target
from mlsysopt.operate.tune import server_files, targets
from mlsysopt.operate.tune.hooks import Hooked, ServerFileError
from mlsysopt.operate.tune.server import ClientFailed
from tests.operate.tune.planted_server import Planted

# A file of somebody who starts from the planted server and breaks one thing.
HEAD = """\
import json
from dataclasses import replace
from tests.operate.tune import planted_server as base

class Mine:
    name = "mine"
    programs, groups, presets = base.Planted.programs, base.Planted.groups, base.Planted.presets
    fences, constraints, counted = base.Planted.fences, base.Planted.constraints, base.Planted.counted
    planted = base.Planted()
    workloads = planted.workloads
    prepare, service, knobs, effective = planted.prepare, planted.service, planted.knobs, planted.effective
    set_live, counters, check, export = planted.set_live, planted.counters, planted.check, planted.export

"""
END = "\nserver = Mine()\n"
WITH = "workloads = {{'w': replace(planted.workloads['mixed'], {})}}"
LINE = len(HEAD.splitlines()) + 1


def written(folder: Path, change: str) -> Path:
    path = folder / "mydb.py"
    path.write_text(HEAD + textwrap.indent(textwrap.dedent(change), "    ") + END)
    return path


def target(path: Path, **settings: Any) -> Target:
    return targets.create(str(path), knobs="easy", directory=str(path.parent / "data"), **settings)


def refused(error: MlsysoptError, *words: str) -> None:
    assert isinstance(error, ServerFileError) and error.exit_code == 2
    for word in words:
        assert word in str(error), str(error)
    assert len(str(error).splitlines()) == 1


def test_the_file_as_it_is_works(tmp_path: Path) -> None:
    made = target(written(tmp_path, "pass"))
    with made.session(Limits()) as session:
        assert session.measure({}, seed=1).ok


# --- what the file defines ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("name = 3", ("needs 'name', a word; got 3",)),
        ("name = None", ("needs 'name', a word; got None",)),
        ("programs = ['postgres']", ("needs 'programs', a mapping: program -> Debian package; got ['postgres']",)),
        ("groups = ('core',)", ("needs 'groups', a mapping: group -> what it is about",)),
        ("fences = None", ("needs 'fences', a mapping: fence -> patterns of knobs",)),
        ("constraints = 'cache <= memory'", ("needs 'constraints', a list of expressions; got 'cache <= memory'",)),
        ("workloads = []", ("needs 'workloads', a mapping: name -> Workload",)),
        ("workloads = {}", ("needs at least one workload",)),
        ("workloads = {'mixed': print}", ("workload 'mixed' must be a Workload, got builtin_function_or_method",)),
        ("workloads = {'mixed': replace(planted.workloads['mixed'], objective='qps')}",
         ("workload 'mixed' has no metric 'qps', its objective",)),
        ("knobs = None", ("needs the hook knobs(), which returns a list of Knob",)),
        ("service = 'postgres'", ("needs the hook service(), which returns a Service (place.service([...]))",)),
        ("effective = {}", ("needs the hook effective(), which returns a mapping: knob -> value",)),
        ("prepare = True", ("needs the hook prepare(), which returns nothing",)),
        ("@property\ndef groups(self): return self.nothing['x']", ("needs 'groups'",)),
        ("@property\ndef groups(self): return {}['x']", ("'groups' raised KeyError: 'x'", f"mydb.py:{LINE + 1}")),
    ],
)  # fmt: skip
def test_what_a_server_lacks_or_has_wrong(tmp_path: Path, change: str, words: tuple[str, ...]) -> None:
    path = written(tmp_path, change)
    with pytest.raises(ServerFileError) as error:
        target(path)
    # The class begins there.
    refused(error.value, str(path), f"mydb.py:{HEAD.splitlines().index('class Mine:') + 1}: ", *words)


def test_a_file_without_a_server(tmp_path: Path) -> None:
    path = tmp_path / "mydb.py"
    path.write_text("class Mine: ...\n")
    with pytest.raises(ServerFileError) as error:
        server_files.server(str(path))
    refused(error.value, f"{path} defines no `server`: end it with `server = YourServer()`")


def test_the_class_instead_of_a_server(tmp_path: Path) -> None:
    path = tmp_path / "mydb.py"
    path.write_text("class Mine: ...\nserver = Mine\n")
    with pytest.raises(ServerFileError, match="needs 'name'"):
        server_files.server(str(path))


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("import os\ndef broken(:\n", 2, "SyntaxError"),
        ("import os\n\nos.environ['NO_SUCH_VARIABLE']\n", 3, "KeyError: 'NO_SUCH_VARIABLE'"),
        ("import no_such_library\n", 1, "ModuleNotFoundError: No module named 'no_such_library'"),
        ("import json\n\n\njson.loads('{')\n", 4, "JSONDecodeError"),
        ("def f():\n    raise ValueError('deep')\nf()\n", 2, "ValueError: deep"),
    ],
)
def test_a_file_that_does_not_import(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = tmp_path / "mydb.py"
    path.write_text(text)
    for _ in range(2):
        # Half a module is not kept.
        with pytest.raises(ServerFileError) as error:
            server_files.server(str(path))
        refused(error.value, f"{path}:{line}: it does not import: {words}")
    path.write_text(HEAD + "    pass" + END)
    assert server_files.server(str(path)).name == "mine"


def test_errors_of_ours_keep_their_words(tmp_path: Path) -> None:
    path = tmp_path / "mydb.py"
    path.write_text("from mlsysopt.core.errors import MissingExtra\nraise MissingExtra('needs the extra')\n")
    with pytest.raises(MlsysoptError, match=r"^needs the extra$"):
        server_files.server(str(path))


def test_a_path_without_a_file_and_an_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no server file .*nothing\.py: give the path of a Python file, or one of "):
        target(tmp_path / "nothing.py")
    with pytest.raises(UsageError, match=r"unknown target 'postgrse'; did you mean postgres\?"):
        targets.create("postgrse")
    assert (
        server_files.is_path("./mydb.py") and server_files.is_path("there/mydb") and not server_files.is_path("redis")
    )


# --- what its hooks do -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hook", "change", "line", "wanted"),
    [
        ("prepare", "def prepare(self, place): raise KeyError('data')", 0, "it must return nothing, or raise"),
        ("service", "def service(self, place, config):\n    return place.folder.nothing", 1, "must return a Service"),
        ("knobs", "def knobs(self, address):\n    return json.loads('{')", 1, "must return a list of Knob"),
        ("knobs", "def knobs(self, address): return self.deep()\ndef deep(self):\n    return 1 / 0", 2, "list of Knob"),
    ],
)
def test_a_hook_that_raises_is_named_with_its_own_line(
    tmp_path: Path, hook: str, change: str, line: int, wanted: str
) -> None:
    path = written(tmp_path, change)
    with pytest.raises(ServerFileError) as error:
        target(path)
    refused(error.value, str(path), f"the hook {hook}() raised ", f"({path}:{LINE + line})", wanted)
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize(
    ("hook", "change", "wanted"),
    [
        ("service", "def service(self, place, config): return ['pg']", "a Service (place.service([...])), got ['pg']"),
        ("knobs", "def knobs(self, address): return []", "a list of Knob, got []"),
        ("knobs", "def knobs(self, address): return [{'name': 'cache'}]", "a list of Knob, got [{'name': 'cache'}]"),
        ("knobs", "def knobs(self, address): return None", "a list of Knob, got None"),
    ],
)  # fmt: skip
def test_a_hook_that_returns_something_else(tmp_path: Path, hook: str, change: str, wanted: str) -> None:
    path = written(tmp_path, change)
    with pytest.raises(ServerFileError) as error:
        target(path)
    refused(error.value, f"the hook {hook}() must return {wanted}", f"({path}:{LINE})")


@pytest.mark.parametrize(
    ("hook", "change", "wanted"),
    [
        ("effective", "def effective(self, address): return [1]", "must return a mapping: knob -> value, got [1]"),
        ("effective", "def effective(self, address): return 1 / 0", "raised ZeroDivisionError: division by zero"),
        ("counters", "def counters(self, address): return None", "must return a mapping: counter -> number, got None"),
        ("check", "def check(self, address, loaded): return True", "must return None, or what is wrong, got True"),
        ("check", "def check(self, address, loaded): return loaded.nothing", "raised AttributeError"),
        ("run", "def load(address, load): return {'tps': 1.0}\n" + WITH.format("run=load"),
         "must return a Loaded, got {'tps': 1.0}"),
        ("run", "def load(address, load): return int('many')\n" + WITH.format("run=load"),
         "raised ValueError: invalid"),
        ("setup", "def fill(address): return open('/no/such')\n" + WITH.format("setup=fill"),
         "raised FileNotFoundError"),
    ],
)  # fmt: skip
def test_a_hook_that_breaks_in_a_trial_ends_the_study_with_its_place(
    tmp_path: Path, hook: str, change: str, wanted: str
) -> None:
    path = written(tmp_path, change)
    made = target(path)
    with made.session(Limits()) as session, pytest.raises(ServerFileError) as error:
        session.measure({}, seed=1)
    refused(error.value, str(path), f"the hook {hook}() {wanted}", f"({path}:{LINE})")
    assert list((tmp_path / "data").iterdir()) == []


def test_an_export_that_is_one_text(tmp_path: Path) -> None:
    made = target(written(tmp_path, "def export(self, config): return 'cache = 3'"))
    with pytest.raises(ServerFileError, match=r"export\(\) must return a list of lines"):
        made.export({}, tmp_path / "out.conf")


def test_a_client_that_fails_is_no_fault_of_the_file(tmp_path: Path) -> None:
    change = "def counters(self, address):\n    raise base.ClientFailed('mine: connection refused')"
    with target(written(tmp_path, change)).session(Limits()) as session:
        outcome = session.measure({}, seed=1)
    assert isinstance(outcome, Failure) and (outcome.kind, outcome.reason) == ("degraded", "mine: connection refused")


def test_a_parser_of_a_client_programs_output_is_code_of_the_file(tmp_path: Path) -> None:
    change = """\
    from mlsysopt.operate.tune.server import program_load
    def parse(output, folder):
        return float(output)
    workloads = {"w": replace(planted.workloads["mixed"], run=program_load([*programs, "-c", "print('fast')"], parse))}
    """
    path = written(tmp_path, change)
    with target(path).session(Limits()) as session, pytest.raises(ServerFileError) as error:
        session.measure({}, seed=1)
    refused(error.value, "the hook run() raised ValueError: could not convert string to float", f"({path}:{LINE + 2})")


# --- the wrapper itself ------------------------------------------------------------------------------


def test_attributes_pass_through_and_errors_of_ours_too() -> None:
    class Fails(Planted):
        def check(self, address: Any, loaded: Any) -> str | None:
            raise InfrastructureError("no space left")

    hooked = Hooked(Fails(), "fails.py")
    assert hooked.name == "planted" and hooked.fences == Planted.fences
    assert not hasattr(hooked, "reset") and getattr(hooked, "infrastructure", ()) == ()
    with pytest.raises(InfrastructureError, match="no space left"):
        hooked.check(None, None)
    with pytest.raises(ClientFailed):
        Hooked(Planted(), "planted.py").effective(type("Nowhere", (), {"host": "127.0.0.1", "port": 1})())


def test_a_server_is_sent_to_another_process_with_its_file() -> None:
    import pickle

    again = pickle.loads(pickle.dumps(Hooked(Planted(noise=0.5), "planted.py")))
    assert isinstance(again, Hooked) and again.noise == 0.5 and re.match("planted", again.name)


def test_a_target_of_a_file_by_path_runs_in_another_process(tmp_path: Path) -> None:
    # A worker has never heard of the file's module.
    import cloudpickle

    code = (
        "import cloudpickle, sys\nfrom mlsysopt.core.target import Limits\n"
        "target = cloudpickle.loads(sys.stdin.buffer.read())\n"
        "with target.session(Limits()) as session:\n    print(target.name, session.measure({}, seed=1).ok)\n"
    )
    sent = cloudpickle.dumps(target(written(tmp_path, "pass")))
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, cwd=root, check=False)
    assert done.stdout == b"mine True\n", done.stderr.decode()
