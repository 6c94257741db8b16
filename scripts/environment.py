"""Set up what a make target needs: `.venv`, one extra of this package, and Debian packages.

    python3 scripts/environment.py tune --packages rocksdb-tools

A second run finds everything in place and takes a fraction of a second. Nothing that is missing
outside Python ends the run: the line that installs it is printed, and the caller goes on.
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import importlib.util
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMPS = VENV / "stamps"
QUIET_S = 15.0

PROGRAMS = {
    "rocksdb-tools": ("db_bench",),
    "postgresql": ("initdb", "/usr/lib/postgresql/*/bin/initdb"),
    "redis-server": ("redis-server",),
    "memcached": ("memcached",),
    "chromium": ("chromium",),
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Set up what a make target needs.")
    parser.add_argument("extra", help="extra of this package, for example tune or dev")
    parser.add_argument("--packages", nargs="*", default=[], choices=sorted(PROGRAMS), help="Debian packages")
    given = parser.parse_args()
    os.chdir(ROOT)
    steps = (make_venv, lambda: install(given.extra), compile_sources, lambda: install_packages(given.packages))
    for step in steps:
        if code := step():
            return code
    return 0


def make_venv() -> int:
    """Create `.venv`; a half-made one is completed, a usable one is left alone."""
    if usable():
        return 0
    if not has_venv_module() and not provide_venv_module():
        say(f"{sys.executable} cannot make virtual environments: {apt_line(['python3-venv'])}")
        return 3
    say(f"creating .venv with Python {sys.version.split()[0]}")
    made = subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=False)
    return 0 if made.returncode == 0 and usable() else 1


def usable() -> bool:
    check = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
    return (
        PYTHON.exists()
        and subprocess.run([PYTHON, "-c", check], stderr=subprocess.DEVNULL, check=False).returncode == 0
    )


def has_venv_module() -> bool:
    # Debian splits ensurepip from the interpreter: `import venv` works without it and then fails half-way.
    return all(importlib.util.find_spec(name) for name in ("venv", "ensurepip"))


def provide_venv_module() -> bool:
    if not can_install() or not sys.executable.startswith("/usr/bin/"):
        return False
    apt_install(["python3-venv"])
    return subprocess.run([sys.executable, "-c", "import venv, ensurepip"], check=False).returncode == 0


def install(extra: str) -> int:
    """Install this package with one extra under the constraints, unless that was done before."""
    wanted = fingerprint()
    stamps = [STAMPS / name for name in {extra, "dev"}]
    if any(stamp.exists() and stamp.read_text() == wanted for stamp in stamps):
        return 0
    say(f"installing mlsysopt[{extra}] and what it needs into .venv (minutes the first time)")
    command = [str(PYTHON), "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
    command += ["-c", "constraints.txt", "-e", f".[{extra}]"]
    if index := os.environ.get("TORCH_INDEX"):
        command += ["--extra-index-url", index]
    code = stream(command, pip_line, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    if code:
        say("pip could not install it; its last lines stand above. Without a network: PIP_INDEX_URL names a mirror")
        return 1
    STAMPS.mkdir(exist_ok=True)
    (STAMPS / extra).write_text(wanted)
    return 0


def compile_sources() -> int:
    """Compile our sources to bytecode, as pip does with what it copies: every start of the command would do it else."""
    subprocess.run([PYTHON, "-m", "compileall", "-q", "src"], stdout=subprocess.DEVNULL, check=False)
    return 0


def fingerprint() -> str:
    """Return what an installation depends on; tool settings in pyproject.toml are not part of it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    version = subprocess.run([PYTHON, "-V"], capture_output=True, text=True, check=True).stdout
    parts = [project["project"], project["build-system"], (ROOT / "constraints.txt").read_text(), version, str(ROOT)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def pip_line(line: str) -> str | None:
    """Return what of pip's output a person wants to see."""
    if hit := re.match(r"\s*Downloading (\S+?)-(\d\S*?)-\S+ \((\d[\d.]* [MG]B)\)", line):
        return f"  downloading {hit[1]} {hit[2]} ({hit[3]})"
    if line.startswith("Installing collected packages: "):
        return f"  unpacking {line.count(',') + 1} packages"
    return line.rstrip() if line.startswith("ERROR") else None


def install_packages(packages: list[str]) -> int:
    """Install missing Debian packages when root; otherwise print the line that does."""
    missing = [package for package in packages if not present(package)]
    if not missing:
        return 0
    if can_install() and apt_install(missing) == 0:
        return 0
    say(f"not installed: {' '.join(missing)}. What needs them is left out or replaced. To install them:")
    say(f"  {apt_line(missing)}")
    return 0


def present(package: str) -> bool:
    return any(shutil.which(name) or ("*" in name and glob.glob(name)) for name in PROGRAMS[package])


def can_install() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def apt_line(packages: list[str]) -> str:
    sudo = "" if os.geteuid() == 0 else "sudo "
    return f"{sudo}apt-get update && {sudo}apt-get install {' '.join(packages)}"


def apt_install(packages: list[str]) -> int:
    say(f"installing Debian packages: {' '.join(packages)}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    settings = ["-o", "DPkg::Lock::Timeout=120", "-o", "Dpkg::Options::=--force-confold"]
    commands = [
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *settings, *packages],
    ]
    with no_services(packages):
        for command in commands:
            if code := stream(command, lambda line: None, env=env):
                return code
    return 0


@contextmanager
def no_services(packages: list[str]) -> Generator[None]:
    """Keep Debian from starting a server or creating a database cluster because we install its program."""
    files = {Path("/usr/sbin/policy-rc.d"): ("#!/bin/sh\nexit 101\n", 0o755)}
    if "postgresql" in packages:
        files[Path("/etc/postgresql-common/createcluster.d/mlsysopt.conf")] = ("create_main_cluster = false\n", 0o644)
    ours = [path for path in files if not path.exists()]
    for path in ours:
        text, mode = files[path]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
    try:
        yield
    finally:
        for path in ours:
            path.unlink(missing_ok=True)


def stream(command: list[str], shown: Callable[[str], str | None], env: dict[str, str]) -> int:
    """Run a command, show the lines that matter and a sign of life; on failure, its last lines."""
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=env,
    )
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert child.stdout is not None
        with child.stdout as output:
            for line in output:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    started = time.monotonic()
    tail: list[str] = []
    while True:
        try:
            line = lines.get(timeout=QUIET_S)
        except queue.Empty:
            say(f"  still at work, {time.monotonic() - started:.0f} s")
            continue
        if line is None:
            break
        tail = [*tail[-19:], line.rstrip()]
        if (text := shown(line)) is not None:
            say(text)
    code = child.wait()
    if code:
        say("\n".join(tail))
    return code


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
