"""One task on its way through an executor: what is asked, how it is packed, what came back."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import cloudpickle  # pyright: ignore[reportMissingTypeStubs]

from mlsysopt.core.errors import ProcessError, UsageError
from mlsysopt.core.processes.child import Child
from mlsysopt.core.processes.slot import exclusive_slot
from mlsysopt.core.target import Failure

__all__ = [
    "MEMORY_REASON",
    "STOPPED",
    "Task",
    "answer",
    "check_options",
    "outcome",
    "outcomes",
    "ran_out_of_memory",
    "run_here",
    "settle",
    "thread_variables",
    "unpack",
]

STOPPED = Failure("lost", "stopped with its executor")
MEMORY_REASON = "over its memory limit"

_TAIL_LINES = 20
# How an answer begins: a large value need not be unpacked to see what it is.
_VALUE, _ERROR, _NO_MEMORY = b"v", b"e", b"m"
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Task:
    """A packed function with its options; plain data, so it can travel.

    Attributes:
        payload: Function and arguments, pickled by value where they cannot be imported.
        cpus: Cores and threads.
        exclusive: Whether it holds the machine's timing slot while it runs.
        fresh: Whether it runs in a process of its own.
        timeout_s: Time-out of the run.
        memory_bytes: Limit of its process tree.
    """

    payload: bytes
    cpus: int = 1
    exclusive: bool = False
    fresh: bool = False
    timeout_s: float | None = None
    memory_bytes: int | None = None

    @classmethod
    def of(
        cls,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        *,
        cpus: int = 1,
        exclusive: bool = False,
        fresh: bool = False,
        timeout_s: float | None = None,
        memory_bytes: int | None = None,
    ) -> Task:
        """Check the options and pack the function; UsageError says what cannot be."""
        needs_process = check_options(cpus, fresh, timeout_s, memory_bytes)
        try:
            payload: bytes = cloudpickle.dumps((fn, args))  # pyright: ignore[reportUnknownMemberType]
        except Exception as error:
            raise UsageError(f"{_name(fn)} or an argument of it cannot be sent to another process: {error}") from error
        return cls(payload, cpus, exclusive, needs_process, timeout_s, memory_bytes)

    def run(self, *, threads: int | None = None, on_start: Callable[[Child], object] | None = None) -> bytes | Failure:
        """Run it here, or from here in a process of its own; return its packed answer.

        Args:
            threads: Threads of a process of its own; None means `cpus`.
            on_start: Called with that process.
        """
        from mlsysopt.core.executors.fresh import run_fresh

        with ExitStack() as stack:
            if self.exclusive:
                stack.enter_context(exclusive_slot())
            if not self.fresh:
                return answer(self.payload)
            return run_fresh(
                self.payload,
                threads=threads or self.cpus,
                timeout_s=self.timeout_s,
                memory_bytes=self.memory_bytes,
                on_start=on_start,
            )


def check_options(cpus: int, fresh: bool, timeout_s: float | None, memory_bytes: int | None) -> bool:
    """Refuse impossible options; return whether the others call for a process of its own."""
    if cpus < 1:
        raise UsageError(f"cpus must be at least 1, got {cpus}")
    if timeout_s is not None and timeout_s <= 0:
        raise UsageError(f"timeout_s must be above 0, got {timeout_s}")
    if memory_bytes is not None and memory_bytes <= 0:
        raise UsageError(f"memory_bytes must be above 0, got {memory_bytes}")
    return fresh or timeout_s is not None or memory_bytes is not None


def thread_variables(threads: int) -> dict[str, str]:
    """Return the environment that gives numerical libraries so many threads."""
    return dict.fromkeys(_THREADS, str(threads))


def answer(payload: bytes) -> bytes:
    """Run a packed function and pack what it returned or raised; a Ctrl-C passes through."""
    try:
        fn, args = cloudpickle.loads(payload)
        return _VALUE + cloudpickle.dumps(fn(*args))  # pyright: ignore[reportUnknownMemberType]
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return _pack_error(error)


def unpack(reply: bytes) -> Any:
    """Return the value in an answer, or raise what the function raised."""
    content = cloudpickle.loads(memoryview(reply)[1:])
    if reply.startswith(_VALUE):
        return content
    packed, words, trace = content
    try:
        error = cloudpickle.loads(packed)
    except Exception:
        # Not every exception survives the journey: its words do.
        error = ProcessError(words)
    error.add_note(f"In the process that ran it:\n{trace}")
    raise error


def ran_out_of_memory(reply: bytes) -> bool:
    """Whether the function in an answer ended with a MemoryError."""
    return reply.startswith(_NO_MEMORY)


def settle(future: Future[Any], reply: bytes | Failure) -> None:
    """Give a future its answer."""
    if isinstance(reply, Failure):
        future.set_result(reply)
        return
    try:
        future.set_result(unpack(reply))
    except BaseException as error:
        future.set_exception(error)


def run_here(fn: Callable[..., Any], args: tuple[Any, ...], exclusive: bool) -> Future[Any]:
    """Run a function in this thread, unpacked; return a future that is done."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    with ExitStack() as stack:
        if exclusive:
            stack.enter_context(exclusive_slot())
        try:
            future.set_result(fn(*args))
        except (Exception, SystemExit) as error:
            future.set_exception(error)
    return future


def outcome(future: Future[Any]) -> Any:
    """Wait for a future; an exception becomes a `Failure` with the end of its traceback."""
    try:
        return future.result()
    except CancelledError:
        return STOPPED
    except (Exception, SystemExit) as error:
        # What happened there is of use; how it was raised again here is not.
        there: list[str] = getattr(error, "__notes__", [])
        lines = there or traceback.format_exception(error)
        tail = "".join(lines).splitlines()[-_TAIL_LINES:]
        if isinstance(error, MemoryError):
            return Failure("crashed", MEMORY_REASON, "\n".join(tail))
        return Failure("crashed", f"{type(error).__name__}: {error}".strip(), "\n".join(tail))


def outcomes(futures: Iterable[Future[Any]]) -> Iterator[Any]:
    """Yield outcomes in order; what has not begun is cancelled when the reader stops reading."""
    waiting = list(futures)
    try:
        for future in waiting:
            yield outcome(future)
    finally:
        for future in waiting:
            future.cancel()


def _pack_error(error: BaseException) -> bytes:
    trace = "".join(traceback.format_exception(error))
    try:
        packed: bytes = cloudpickle.dumps(error)  # pyright: ignore[reportUnknownMemberType]
    except Exception:
        packed = b""
    kind = _NO_MEMORY if isinstance(error, MemoryError) else _ERROR
    return kind + cloudpickle.dumps((packed, f"{type(error).__name__}: {error}", trace))  # pyright: ignore[reportUnknownMemberType]


def _name(fn: object) -> str:
    return str(getattr(fn, "__qualname__", fn))
