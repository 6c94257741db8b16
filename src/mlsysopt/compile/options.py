"""What a user may say about a compilation; every field is part of the key of what is cached."""

from __future__ import annotations

from dataclasses import dataclass

from mlsysopt.core.errors import UsageError, near_misses

__all__ = ["EFFORTS", "PRECISIONS", "Options"]

PRECISIONS = ("f32", "bf16", "int8w")
EFFORTS = ("quick", "normal", "max")
FALLBACKS = ("torch", "error")


@dataclass(frozen=True, slots=True)
class Options:
    """How a model is compiled.

    Attributes:
        precision: "f32", "bf16" or "int8w" (weights only); norms, softmax and residuals stay f32.
        error: Largest allowed error of the output, relative to its root mean square; None means no limit beyond
            that of the kernels.
        effort: "quick" (no search), "normal", or "max" (kernels are timed).
        threads: Threads that a call may use.
        isa: Widest vector unit to use: "avx512", "avx2", "baseline"; None takes what the machine has.
        fallback: What becomes of ops without native form: "torch" runs them there, counted; "error" refuses.
        check: "none", "compile" (three sizes against the reference before the executable is returned), or
            "sample:N", which adds one call in N.
        strict: Whether a stage that fails its check is an error instead of undone.
        cache: Whether object code is kept on disk.
    """

    precision: str = "f32"
    error: float | None = None
    effort: str = "normal"
    threads: int = 1
    isa: str | None = None
    fallback: str = "torch"
    check: str = "compile"
    strict: bool = False
    cache: bool = True

    def __post_init__(self) -> None:
        for name, allowed in (("precision", PRECISIONS), ("effort", EFFORTS), ("fallback", FALLBACKS)):
            given = getattr(self, name)
            if given not in allowed:
                raise UsageError(f"{name} {given!r}; {near_misses(str(given), allowed, noun=name)}")
        if self.threads < 1:
            raise UsageError(f"threads must be at least 1, got {self.threads}")
        if self.error is not None and not self.error > 0:
            raise UsageError(f"error must be above 0, got {self.error}")
        if self.check not in ("none", "compile") and self.sampled is None:
            raise UsageError(f"check {self.check!r}: allowed are 'none', 'compile' and 'sample:N' with N >= 1")

    @property
    def sampled(self) -> int | None:
        """One call in how many is checked, None for none."""
        word, _, number = self.check.partition(":")
        return int(number) if word == "sample" and number.isdecimal() and int(number) >= 1 else None
