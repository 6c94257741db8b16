"""What can go wrong between a model and its executable."""

from __future__ import annotations

from mlsysopt.core.errors import ArtefactError, MlsysoptError, UsageError

__all__ = ["CodegenError", "CompileError", "ExecutableError", "InputError", "NumericsError", "StaleWeights"]


class CompileError(MlsysoptError):
    """A model cannot be compiled: the op or the stage is named."""


class CodegenError(CompileError):
    """LLVM refused a kernel, or object code that cannot run here was offered."""


class InputError(UsageError):
    """A call with an input of another type, rank or size than the executable was compiled for."""


class NumericsError(MlsysoptError):
    """A kernel's result is further from the reference than its tolerance."""


class StaleWeights(MlsysoptError):
    """A weight was changed after it had been packed; `refresh()` packs it again."""


class ExecutableError(ArtefactError):
    """A compiled model's file is damaged, of another version or of another machine."""
