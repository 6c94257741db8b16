"""What a Redis server says to nonsense, and what that tells about a setting."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

from mlsysopt.core.processes import run_child
from mlsysopt.core.target import Limits, Value
from mlsysopt.operate.tune.server import Address, ClientFailed, Knob

__all__ = ["bounds_of", "connected", "kind_of", "knob", "ours", "refusal", "text_of", "theirs", "value_of"]

_WORD, _NUMBERS = "__mlsysopt__", (str(-(2**63)), str(2**64 - 1), str(2**63 - 1))
_SIZE = re.compile("must be a memory (or percent )?value")
# Choices that know yes and no, and something else.
_CHOICES = ("appendfsync", "enable-*", "oom-score-adj", "sanitize-dump-payload", "supervised", "tls-auth-clients")


@contextmanager
def connected(address: Address) -> Generator[Any]:
    """Yield a client; what goes wrong with it is a `ClientFailed`."""
    import redis

    try:
        with redis.Redis(address.host, address.port, decode_responses=True, socket_timeout=30) as client:
            yield client
    except redis.RedisError as error:
        raise ClientFailed(str(error)) from error


def refusal(client: Any, name: str, value: str) -> str:
    """Set one value; returns what the server has against it, "" for nothing."""
    import redis

    try:
        client.config_set(name, value)
    except redis.ResponseError as error:
        return str(error)
    return ""


def _told(address: Address, client: Any, name: str, value: str) -> str:
    """Return what the server says to a value: the running one, or a start where it cannot be set in a running one."""
    told = refusal(client, name, value)
    if "immutable" not in told:
        return told
    # The nonsense at the end keeps a start from succeeding whose value is not refused.
    argv = [address.programs["redis-server"], "--port", "0", f"--{name}", value, "--hz", _WORD]
    said = run_child(argv, limits=Limits(timeout_s=20), user=address.user).stderr
    return said if f"'{name} " in said else ""


def knob(address: Address, client: Any, name: str, default: str) -> Knob | None:
    """Find out what a setting is; None for texts, lists and what nothing can be said about. It keeps its value."""
    try:
        word = _told(address, client, name, _WORD)
        kind, choices = kind_of(word)
        if kind is None:
            return None
        answers = (_told(address, client, name, number) for number in _NUMBERS if kind == "int")
        low, high = next((bounds for answer in answers if (bounds := bounds_of(answer)) is not None), (None, None))
    finally:
        fixed = "immutable" in refusal(client, name, default)
    return Knob(
        name=ours(name), kind=kind, default=value_of(name, default), low=low, high=high, choices=choices,
        unit="B" if _SIZE.search(word) else "", change="restart" if fixed else "live",
    )  # fmt: skip


def kind_of(word: str) -> tuple[Any, tuple[str, ...]]:
    """Read a refusal: the kind of value that is wanted, and the choices."""
    if "'yes' or 'no'" in word:
        return "bool", ()
    one_of = re.search(r"one of the following: (.*)", word)
    if one_of:
        return "choice", tuple(one_of[1].split(", "))
    return ("int" if "into an integer" in word or _SIZE.search(word) else None), ()


def bounds_of(answer: str) -> tuple[float, float] | None:
    """Read a refusal: the smallest and the largest value that are taken."""
    found = re.search(r"between (-?\d+) and (-?\d+)", answer)
    return (float(found[1]), float(found[2])) if found else None


def value_of(name: str, text: str) -> Value:
    """Return a value as Redis prints it in its own type."""
    if text in ("yes", "no") and not any(fnmatchcase(name, one) for one in _CHOICES):
        return text == "yes"
    return int(text) if re.fullmatch(r"-?\d+", text) else text


def text_of(value: Value) -> str:
    """Return a value as Redis reads it."""
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def ours(name: str) -> str:
    """Return the name that a rule can have."""
    return name.replace("-", "_")


def theirs(name: str) -> str:
    """Return the name that Redis knows."""
    return name.replace("_", "-")
