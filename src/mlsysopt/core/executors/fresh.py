"""One task in a new process with limits; the process is gone afterwards, whatever happened.

The parent sends the function over standard input; the answer comes back in a memory file, so that
a large one needs nobody to read along, and whatever the function prints cannot get into it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable

from mlsysopt.core.executors.tasks import MEMORY_REASON, answer, ran_out_of_memory, thread_variables
from mlsysopt.core.processes.child import Child, Ended
from mlsysopt.core.processes.running import ChildResult, run_child
from mlsysopt.core.target import Failure, Limits

__all__ = ["run_fresh", "serve"]

# The import path must be the parent's before the package can be imported at all.
_START = (
    "import json, sys; path, reply = json.loads(sys.stdin.buffer.readline()); sys.path[:] = path; "
    "from mlsysopt.core.executors.fresh import serve; serve(reply)"
)
_TAIL_LINES = 20


def run_fresh(
    payload: bytes,
    *,
    threads: int = 1,
    timeout_s: float | None = None,
    memory_bytes: int | None = None,
    on_start: Callable[[Child], object] | None = None,
) -> bytes | Failure:
    """Run a packed function in a new process and return its packed answer.

    Args:
        payload: Function and arguments, as `Task` packs them.
        threads: Threads that numerical libraries may start.
        timeout_s: Time-out, the start of the process included.
        memory_bytes: Limit of the process tree.
        on_start: Called with the process once it runs.

    Returns:
        The answer, or a `Failure`: `timeout`, or `crashed` when there is no answer.
    """
    reply = os.memfd_create("mlsysopt-reply")
    try:
        head = json.dumps([sys.path, reply]).encode() + b"\n"
        done = run_child(
            [sys.executable, "-c", _START],
            env=thread_variables(threads),
            limits=Limits(memory_bytes=memory_bytes, timeout_s=timeout_s),
            stdin=head + payload,
            pass_fds=(reply,),
            on_start=on_start,
        )
        # An answer that was written before the limit struck may be cut off.
        if done.returncode == 0 and not done.timed_out and not done.killed_for_memory:
            written = os.pread(reply, os.fstat(reply).st_size, 0)
            if written and memory_bytes is not None and ran_out_of_memory(written):
                return Failure("crashed", MEMORY_REASON, _tail(done), done.wall_s, done.cpu_s)
            if written:
                return written
        return _failure(done, timeout_s, memory_bytes)
    finally:
        os.close(reply)


def serve(reply: int) -> None:
    """Be the new process: read a function from standard input, write its answer."""
    payload = sys.stdin.buffer.read()
    written = answer(payload)
    with open(reply, "wb", closefd=True) as out:
        out.write(written)


def _failure(done: ChildResult, timeout_s: float | None, memory_bytes: int | None) -> Failure:
    tail = _tail(done)
    if done.timed_out:
        return Failure("timeout", f"not done after {timeout_s:g} s", tail, done.wall_s, done.cpu_s)
    if done.killed_for_memory:
        reason = MEMORY_REASON if memory_bytes is not None else "the machine had no memory left"
    elif done.returncode and "MemoryError" in done.stderr:
        reason = MEMORY_REASON
    else:
        reason = f"its process ended with {Ended(done.returncode, 0.0, 0).words()} and no answer"
    return Failure("crashed", reason, tail, done.wall_s, done.cpu_s)


def _tail(done: ChildResult) -> str:
    return "\n".join((done.stdout + done.stderr).splitlines()[-_TAIL_LINES:])
