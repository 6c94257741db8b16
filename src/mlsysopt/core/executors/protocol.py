"""What every executor promises, and what follows from `submit` and `shutdown` alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

from mlsysopt.core.executors.tasks import outcomes

__all__ = ["Executor"]


@runtime_checkable
class Executor(Protocol):
    """Runs functions, somewhere, and tells what became of each.

    A task whose process died is a `Failure("crashed")`, one that took too long a
    `Failure("timeout")`: failures of the place are results. An exception of the function itself
    is raised by `Future.result()`. The innocent neighbours of a task that dies are not touched.

    Options of a task:

    - `cpus`: Cores it takes, and threads that BLAS, OpenMP and torch may start in it.
    - `exclusive`: It holds this machine's timing slot while it runs.
    - `fresh`: It runs in a new process of its own, gone afterwards.
    - `timeout_s`, `memory_bytes`: Limits; a task with one runs fresh, since only a process can be
      stopped. Waiting for a core or for the slot does not count.
    """

    def submit(
        self,
        fn: Callable[..., Any],
        *args: Any,
        cpus: int = 1,
        exclusive: bool = False,
        fresh: bool = False,
        timeout_s: float | None = None,
        memory_bytes: int | None = None,
    ) -> Future[Any]:
        """Run `fn(*args)`; the future's result is its value or a `Failure`."""
        ...

    def map(
        self,
        fn: Callable[[Any], Any],
        items: Iterable[Any],
        *,
        cpus: int = 1,
        exclusive: bool = False,
        fresh: bool = False,
        timeout_s: float | None = None,
        memory_bytes: int | None = None,
    ) -> Iterator[Any]:
        """Start `fn` on all items now; yield values and `Failure`s in the order of the items.

        An exception of `fn` is a `Failure("crashed")` with its traceback here: one bad item does
        not take the others' results away.
        """
        return outcomes(
            [
                self.submit(
                    fn, item, cpus=cpus, exclusive=exclusive, fresh=fresh,
                    timeout_s=timeout_s, memory_bytes=memory_bytes,
                )
                for item in items
            ]
        )  # fmt: skip

    def shutdown(self, wait: bool = True, *, kill: bool = False) -> None:
        """Take no more tasks and end.

        Args:
            wait: Return only when all tasks are done and all processes are gone.
            kill: End running tasks, cancel waiting ones.
        """
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown(kill=kind is not None)
