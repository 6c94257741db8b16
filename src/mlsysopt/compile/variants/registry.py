"""Which variants there are: entry points of `mlsysopt.variants`, each a function without arguments that returns one.

Ours are registered as a stranger's are. One that does not import, or is no variant, is named in the log and left out;
the others go on.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING

from mlsysopt.core import plugins
from mlsysopt.core.errors import MlsysoptError, PluginError, UsageError, near_misses

if TYPE_CHECKING:
    from mlsysopt.compile.variants.site import Variant

__all__ = ["BASELINE", "variant", "variants"]

log = logging.getLogger("mlsysopt.compile")

BASELINE = "aten.nt"
"""What the framework does of itself: every gain is a gain over this one."""

_MEMBERS = ("name", "version", "ops", "form", "native")
_METHODS = ("supports", "prepare", "scratch_bytes", "bind", "block_rows", "error")


def variants(op: str) -> list[Variant]:
    """Return the variants for an op, the baseline first, then by name.

    Whether one can run here and for a certain site is what its `supports` says.

    >>> [one.name for one in variants("linear")][:2]
    ['aten.nt', 'aten.int8_dynamic']
    """
    found = [one for one in map(_tried, plugins.names("mlsysopt.variants")) if one is not None and op in one.ops]
    return sorted(found, key=lambda one: (one.name != BASELINE, one.name))


def variant(name: str) -> Variant:
    """Return one variant.

    Raises:
        UsageError: no such name.
        PluginError: it cannot be loaded, or is not what the protocol asks for.
    """
    known = plugins.names("mlsysopt.variants")
    if name not in known:
        raise UsageError(f"unknown variant {name!r}; {near_misses(name, known, noun='variant', width=12)}")
    return _loaded(name)


@cache
def _tried(name: str) -> Variant | None:
    try:
        return _loaded(name)
    except MlsysoptError as error:
        log.warning("variant %s is left out: %s", name, error)
        return None


@cache
def _loaded(name: str) -> Variant:
    make = plugins.load("mlsysopt.variants", name, noun="variant")
    try:
        made = make()
    except MlsysoptError:
        raise
    except Exception as error:
        raise plugins.blame("mlsysopt.variants", name, "its constructor", error) from error
    lacking = [word for word in (*_MEMBERS, *_METHODS) if not hasattr(made, word)]
    if lacking:
        raise PluginError(
            f"variant {name!r} from {plugins.origin('mlsysopt.variants', name)} has no {lacking[0]!r}: "
            "see mlsysopt.compile.variants.site.Variant"
        )
    if made.name != name:
        raise PluginError(f"variant {name!r} calls itself {made.name!r}: the entry point and its name must agree")
    return made
