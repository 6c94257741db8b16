"""Two numbers about a processor, in some 50 ms: multiply-adds and bytes per second of one thread."""

from __future__ import annotations

from dataclasses import dataclass

from mlsysopt.compile.variants.fingerprint import Fingerprint
from mlsysopt.compile.variants.products import torch_module
from mlsysopt.core.measure import timed
from mlsysopt.core.measure.micro import last_level_bytes

__all__ = ["Roofline", "guessed_roofline", "measure_roofline"]

_SIDE = 384
# Large caches are told for all guests of a server; reading this much from memory is enough.
_MOST_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Roofline:
    """What bounds a product where nothing was measured: arithmetic and memory.

    Attributes:
        flops_per_s: Of f32, one thread.
        bytes_per_s: Read from memory, one thread.
        measured: Whether it was measured here, or is the documented guess.
    """

    flops_per_s: float
    bytes_per_s: float
    measured: bool = False


def guessed_roofline(here: Fingerprint) -> Roofline:
    """Return bounds by the vector unit alone: 2.5 GHz and one memory channel."""
    lanes = 16 if "avx512f" in here.isa and here.cap in ("", "avx512") else 8 if "avx2" in here.isa else 4
    # Two multiply-adds of `lanes` numbers in each of 2.5e9 cycles; half of it is what good kernels reach everywhere.
    return Roofline(2 * 2 * lanes * 2.5e9 / 2, 10e9)


def measure_roofline() -> Roofline:
    """Measure what torch reaches: a square product in the cache, a sum over what no cache holds."""
    torch = torch_module()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            a = torch.ones(_SIDE, _SIDE)
            product = timed(lambda: torch.mm(a, a), min_time_s=2e-3, repeats=6)
            far = torch.ones(min(2 * last_level_bytes(), _MOST_BYTES) // 4)
            read = timed(far.sum, min_time_s=1e-3, repeats=6)
    finally:
        torch.set_num_threads(before)
    return Roofline(2 * _SIDE**3 / product.low_s, far.nbytes / read.low_s, measured=True)
