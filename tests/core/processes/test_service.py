"""Servers: ready, dead before ready, stopped, in order."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlsysopt.core.errors import InfrastructureError, MissingProgram, ProcessError, UsageError
from mlsysopt.core.processes import NotReadyInTime, Service, Stack, descendants, free_port, service
from mlsysopt.core.processes.identity import start_ticks
from mlsysopt.core.target import Limits

WEB = [sys.executable, "-u", "-m", "http.server", "{port}", "--bind", "127.0.0.1"]


def script(code: str) -> list[str]:
    return [sys.executable, "-u", "-c", code]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = set(descendants(os.getpid()))
    yield
    assert set(descendants(os.getpid())) <= before


def asks(web: Service) -> bool:
    with socket.create_connection(web.address, timeout=1):
        return True


@pytest.mark.parametrize("ready", [0, "Serving HTTP on", re.compile(r"port \d+ \("), asks])
def test_ready_by_port_by_line_by_pattern_and_by_question(ready: Any) -> None:
    web = Service(WEB, ready=ready, port=0, name="web")
    with web:
        assert asks(web)
        assert web.running and web.folder.is_dir()
        folder, pid = web.folder, web.pid
    assert not web.running and not folder.exists() and start_ticks(pid) is None
    assert "Serving HTTP on" in web.log_tail()


def test_it_can_be_started_again() -> None:
    web = Service(WEB)
    first = web.start().pid
    with pytest.raises(ProcessError, match="runs already"):
        web.start()
    assert web.stop() is not None
    assert web.stop() is None
    assert web.start().pid != first
    web.stop()


def test_a_server_that_dies_is_reported_at_once_with_its_words() -> None:
    dying = Service(script("import sys; sys.exit('bad option: --frobnicate')"), name="dying")
    began = time.monotonic()
    with pytest.raises(ProcessError) as died:
        dying.start(30)
    assert time.monotonic() - began < 1
    first, last = str(died.value).splitlines()
    assert re.fullmatch(
        r"dying ended with exit status 1 \(after 0\.\d s\), before it was ready; its last lines:", first
    )
    assert last == "bad option: --frobnicate"
    assert dying.log_tail() == "bad option: --frobnicate"


def test_a_server_that_says_nothing_is_named_all_the_same() -> None:
    with pytest.raises(ProcessError, match=r"kill ended with signal SIGKILL .*\n\(it wrote nothing\)"):
        Service(["sh", "-c", "kill -9 $$"], name="kill").start()


def test_a_server_that_is_never_ready_is_stopped() -> None:
    sleeper = Service(["sleep", "60"], ready="never said", name="sleeper")
    with pytest.raises(NotReadyInTime, match=r"not ready after 0\.3 s \(waited for the log line 'never said'\)"):
        sleeper.start(0.3)
    assert not sleeper.running


def test_one_that_died_is_told_from_one_that_was_not_ready_in_time() -> None:
    assert issubclass(NotReadyInTime, ProcessError)
    with pytest.raises(ProcessError) as died:
        Service(["false"], ready="never said").start(10)
    assert not isinstance(died.value, NotReadyInTime)
    with pytest.raises(NotReadyInTime) as late:
        Service(["sh", "-c", "echo still recovering; sleep 60"], ready="never said").start(0.3)
    assert str(late.value).endswith("its last lines:\nstill recovering")


def test_one_that_was_not_ready_in_time_may_have_less_time_to_end() -> None:
    stubborn = ["sh", "-c", "trap '' TERM; sleep 60 & wait; wait"]
    began = time.monotonic()
    with pytest.raises(NotReadyInTime):
        Service(stubborn, ready="never said", grace_s=60.0, unready_grace_s=0.1).start(0.3)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_it_is_asked_to_stop_in_its_own_way(number: signal.Signals) -> None:
    traps = " ".join(
        f"trap 'echo got {one.name}; exit 7' {one.name[3:]};" for one in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
    )
    asked = Service(["sh", "-c", f"{traps} echo up; sleep 60 & wait"], ready="up", stop_signal=number)
    with asked:
        pass
    assert asked.log_tail().splitlines() == ["up", f"got {number.name}"]


def test_asked_in_another_way_a_stubborn_one_is_killed_all_the_same() -> None:
    deaf = Service(["sh", "-c", "trap '' INT; echo up; sleep 60 & wait"], ready="up", stop_signal=2, grace_s=0.1)
    ended = deaf.start().stop()
    assert ended is not None and ended.signal == signal.SIGKILL


def test_a_server_that_ignores_the_request_to_end_is_killed() -> None:
    stubborn = Service(["sh", "-c", "trap '' TERM; echo up; sleep 60 & wait; sleep 60"], ready="up", grace_s=0.2)
    stubborn.start()
    ended = stubborn.stop()
    assert ended is not None and ended.signal == 9


def test_a_fixed_port_that_is_taken_is_the_machines_fault() -> None:
    with Service(WEB) as first:
        # By port a stranger's answer would look like readiness; by line only the server can tell.
        for taken in (Service(WEB, ready=first.port, name="second"), Service(WEB, port=first.port, ready="Serving")):
            with pytest.raises(InfrastructureError, match=f"port {first.port} for .* is taken by another process"):
                taken.start(10)


def test_a_port_that_is_taken_at_the_last_moment_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as rival:
        # Bound and not listening: nobody answers, and nobody else can bind it.
        rival.bind(("127.0.0.1", 0))
        ports = iter([rival.getsockname()[1], free_port()])
        monkeypatch.setattr(service, "free_port", lambda: next(ports))
        with Service(WEB) as web:
            assert web.port != rival.getsockname()[1]


def test_a_stranger_on_the_port_is_not_taken_for_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with Service(WEB, name="stranger") as stranger:
        monkeypatch.setattr(service, "free_port", lambda: stranger.port)
        looked = iter([False])
        real = service.answers
        monkeypatch.setattr(service, "answers", lambda port: next(looked, None) is not False and real(port))
        with pytest.raises(InfrastructureError, match="taken by another process"):
            Service(["sleep", "60"], ready=stranger.port, name="second").start(10)


def test_templates_are_filled_in_before_the_start(tmp_path: Path) -> None:
    template = tmp_path / "app.conf.template"
    template.write_text("listen $port\ndata ${folder}\nlevel $level\nprice $$5\n")
    show = script("print(open('app.conf').read(), 'end'); import time; time.sleep(60)")
    with Service(show, ready="end", port=0, files={template: {"level": 3}}) as app:
        assert app.log_tail().splitlines()[:4] == [f"listen {app.port}", f"data {app.folder}", "level 3", "price $5"]


def test_a_template_without_a_value_is_refused_by_name(tmp_path: Path) -> None:
    template = tmp_path / "app.conf"
    template.write_text("level $levle")
    with pytest.raises(UsageError, match=r"\$levle, which has no value: did you mean level\?"):
        Service(["true"], files={template: {"level": 3}}).start()
    template.write_text("costs $ 5")
    with pytest.raises(UsageError, match="no template"):
        Service(["true"], files={template: {}}).start()
    with pytest.raises(InfrastructureError, match="No such file"):
        Service(["true"], files={tmp_path / "missing": {}}).start()


def test_a_missing_program_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingProgram, match="no-such-server"):
        Service(["no-such-server"]).start()


def test_what_is_not_running_says_so() -> None:
    web = Service(WEB, name="web")
    for ask in (lambda: web.pid, lambda: web.port, lambda: web.folder):
        with pytest.raises(ProcessError, match=r"web .*not running"):
            ask()


def test_memory_is_watched_while_it_runs() -> None:
    grow = script("import time; print('up'); time.sleep(0.2); x = b'1' * (300 << 20); time.sleep(60)")
    with Service(grow, ready="up", limits=Limits(memory_bytes=100 << 20)) as hungry:
        deadline = time.monotonic() + 30
        while hungry.running and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not hungry.running and hungry.killed_for_memory


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop privileges")
def test_a_server_without_privileges_can_use_its_folder(tmp_path: Path) -> None:
    template = tmp_path / "given.conf"
    template.write_text("")
    # A shell: the interpreter of these tests may lie in a home that is closed to others.
    write = ["sh", "-c", "touch mine && echo more >> given.conf && echo up && exec sleep 60"]
    with Service(write, ready="up", user="nobody", files={template: {}}) as app:
        assert (app.folder / "mine").owner() == (app.folder / "given.conf").owner() == "nobody"


def test_a_stack_starts_in_order_and_stops_all_when_one_fails() -> None:
    first, second = Service(WEB, name="first"), Service(["false"], name="second")
    with pytest.raises(ProcessError, match="second ended with exit status 1"), Stack([first, second]):
        pass
    assert not first.running
    with Stack([Service(WEB, name="a"), Service(WEB, name="b")]) as stack:
        assert stack["a"].port != stack["b"].port
        with pytest.raises(UsageError, match="no service 'c' here: known services: a, b"):
            stack["c"]
    assert not any(service.running for service in stack.services)
