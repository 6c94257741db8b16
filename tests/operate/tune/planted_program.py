"""The program of the planted server: `python planted_program.py OPTIONS_AS_JSON PORT FOLDER [NAME=VALUE ...]`.

It listens on 127.0.0.1, one line in and one line of JSON out: LIST, VALUES, SET NAME VALUE (tried and
taken back), LOAD SEED, COUNTERS, CHECK.
See `planted_server.py` for what it does and how it is changed. It imports little: it has to start fast.
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import sys
import time
from typing import Any

# name -> (kind, default, low, high, choices, scale in bytes, unit, group, change)
KNOBS: dict[str, tuple[Any, ...]] = {
    "workers": ("int", 4, 1, 1_000_000, (), 1, "", "core", "restart"),
    "cache": ("int", 1024, 16, 2**30, (), 4096, "B", "core", "restart"),
    "low_mark": ("int", 100, 1, 100_000, (), 1, "", "core", "restart"),
    "high_mark": ("int", 1000, 1, 100_000, (), 1, "", "core", "restart"),
    "mode": ("choice", "safe", None, None, ("safe", "fast", "turbo"), 1, "", "core", "restart"),
    "ticks": ("int", 10, 1, 1_000_000, (), 1, "", "core", "live"),
    "ratio": ("float", 0.5, 0.0, 1e9, (), 1, "", "core", "live"),
    "patience": ("int", 0, 0, 100_000, (), 1, "ms", "traps", "restart"),
    "depth": ("int", 16, 1, 100_000, (), 1, "", "traps", "restart"),
    "lossy": ("bool", False, None, None, (), 1, "", "traps", "restart"),
    "scratch": ("int", 64, 1, 2**30, (), 1024, "B", "traps", "restart"),
    "strays": ("int", 0, 0, 3, (), 1, "", "traps", "restart"),
    "sync": ("bool", True, None, None, (), 1, "", "core", "restart"),
    "page": ("int", 4096, 4096, 4096, (), 1, "B", "", "fixed"),
}
# What is really accepted, where that is less than the list above says.
TRUTH = {"workers": (1, 64), "cache": (16, 65_536), "ratio": (0.0, 1.0)}
CLAMPED = {"ticks": (1, 500)}
HANGS_ABOVE, DIES_ABOVE = 300, 200


def read(name: str, text: str) -> Any:
    kind = KNOBS[name][0]
    if kind == "bool":
        return {"on": True, "off": False}[text]
    return int(text) if kind == "int" else float(text) if kind == "float" else text


def objection(name: str, value: Any, all_of: dict[str, Any]) -> str | None:
    """Say why a value is refused, in the words of a real server; None where it is not."""
    if name == "workers" and not TRUTH[name][0] <= value <= TRUTH[name][1]:
        return f'FATAL:  {value} is outside the valid range for parameter "workers" (1 .. 64)'
    if name == "ratio" and not 0.0 <= value <= 1.0:
        return f"FATAL:  ratio: {value} is not a share"
    if name == "cache" and not TRUTH[name][0] <= value <= TRUTH[name][1]:
        return (
            f"FATAL:  could not map {value * 4096} bytes: Cannot allocate memory\n"
            "HINT:  perhaps reduce workers or low_mark"  # blames the wrong ones, as real hints do
        )
    if name == "mode" and value == "turbo":
        return "FATAL:  mode 'turbo' is not supported on this platform"
    if name in ("low_mark", "high_mark") and all_of["low_mark"] >= all_of["high_mark"]:
        return "planted: low_mark must be less than high_mark"  # without the word FATAL
    return None


def speed(values: dict[str, Any], shape: str) -> float:
    """Return how fast the load is, 1 at the default; knows nothing of what is valid."""
    if shape == "flat":
        return 1.0
    cache, workers = math.log2(values["cache"] / 1024), math.log2(values["workers"] / 4)
    if shape == "corner":
        return 1.0 + 0.05 * cache + 0.05 * workers + 0.03 * math.log2(values["low_mark"] / 100)
    near = math.exp((16 - (cache - 4) ** 2) / 18), math.exp((1 - (workers - 1) ** 2) / 8)
    marks = 1.0 + 0.03 * max(-3.0, min(3.0, math.log2(values["high_mark"] / values["low_mark"] / 10)))
    other = {"safe": 1.0, "fast": 1.12, "turbo": 1.3}[values["mode"]] * (1.0 if values["sync"] else 2.0)
    return (0.7 + 0.3 * near[0]) * (0.85 + 0.15 * near[1]) * marks * other


class Program:
    def __init__(self, options: dict[str, Any], values: dict[str, Any]) -> None:
        self.options, self.values = options, values
        self.counters = {"reads": 0.0, "flushes": 0.0}
        self.written = [0, 0]

    def answer(self, line: str) -> Any:
        command, *words = line.split()
        if command == "LIST":
            return [[name, *KNOBS[name]] for name in self.options["listed"]]
        if command == "VALUES":
            return {name: self.values[name] for name in self.options["listed"]}
        if command == "SET":
            value = read(words[0], words[1])
            wrong = objection(words[0], value, {**self.values, words[0]: value})
            return {"error": wrong, "used": clamped(words[0], value)}
        if command == "LOAD":
            return self.load(int(words[0]))
        return {"COUNTERS": self.counters, "CHECK": self.written}[command]

    def load(self, seed: int) -> Any:
        import random

        values, options = self.values, self.options
        if values["depth"] > DIES_ABOVE:
            log("PANIC:  stack exhausted")
            os.abort()
        kept = bytearray(values["scratch"] * 1024)
        for at in range(0, len(kept), 4096):
            kept[at] = 1
        began = time.process_time()
        while (used := time.process_time() - began) < options["busy_s"]:
            pass
        noise = random.Random(f"{seed} {sorted(values.items())}").gauss(0.0, 1.0)
        rate = 1000.0 * speed(values, options["shape"]) * math.exp(options["noise"] * noise)
        # Operations follow the CPU time that was really used, so that the twin tells the same story.
        done = rate * used / options["busy_s"]
        self.counters["reads"] += done * 64 / values["cache"]
        self.counters["flushes"] += done / values["high_mark"]
        self.written[0] += round(done)
        self.written[1] += round(done * 0.9) if values["lossy"] else round(done)
        return {"tps": rate, "p99_ms": 4000.0 / rate, "operations": done}


def clamped(name: str, value: Any) -> Any:
    low, high = CLAMPED.get(name, (value, value))
    return min(max(value, low), high)


def log(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def main() -> None:
    options = json.loads(sys.argv[1])
    fault = options["fault"]
    if fault and os.path.exists(fault):
        with open(fault) as told:
            log(told.read().strip())
        sys.exit(1)
    values = {name: knob[1] for name, knob in KNOBS.items()}
    for word in sys.argv[4:]:
        name, _, text = word.partition("=")
        values[name] = read(name, text)
    values = {name: clamped(name, value) for name, value in values.items()}
    for name in values:
        wrong = objection(name, values[name], values)
        if wrong is not None:
            log("FATAL:  the server could not be started" if options["silent"] else wrong)
            sys.exit(1)
    for _ in range(values["strays"]):
        import subprocess

        # A child that leaves the group, as the children of a killed server do.
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"], start_new_session=True)
    if values["patience"] > HANGS_ABOVE:
        log("LOG:  recovery is in progress")
        signal.pause()
    time.sleep(options["start_s"])
    with open(os.path.join(sys.argv[3], "planted.data"), "a") as data:
        data.write("started\n")
    program = Program(options, values)
    with socket.create_server(("127.0.0.1", int(sys.argv[2]))) as listening:
        log("LOG:  ready")
        while True:
            with listening.accept()[0] as peer, peer.makefile("rw") as lines:
                for line in lines:
                    lines.write(json.dumps(program.answer(line)) + "\n")
                    lines.flush()


if __name__ == "__main__":
    main()
