"""A trainer's record: how to call it, what its time and memory depend on, how it tells where it is."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from mlsysopt.core import plugins
from mlsysopt.core.errors import MissingExtra, PluginError, UsageError, near_misses

if TYPE_CHECKING:
    from mlsysopt.train.estimate.ratings import Ratings

__all__ = ["TrainerRecord", "Variant", "find", "names", "split_sum", "trainer"]

Side = Literal["user", "item"]
Feed = Literal["ratings", "trainset", "csr"]
Events = Literal["lines", "callback", "phases", "step"]

_GROUP: plugins.Group = "mlsysopt.trainers"
_EPOCH_NAMES = ("n_epochs", "epochs", "iterations", "n_iterations", "n_iter", "max_iter", "num_epochs", "n_rounds")


@dataclass(frozen=True, slots=True)
class Variant:
    """What a trainer's switches decide: a record's fields that depend on them."""

    time: tuple[str, ...]
    memory: str
    side: Side = "user"
    words: str = ""
    stays: str = "0"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerRecord:
    """One trainer; made by `trainer`, found by `find`.

    Attributes:
        name: What the command line calls it.
        fit: Called with the data and the hyper-parameters, trains and returns the model.
        time: Cost terms: expressions over R, U, I, Su, Si, Mu, Mi, Wu, Wi, hyper-parameters and
            `ramp(bytes)`. A constant is always among them.
        memory: Peak bytes beyond the loaded data: one expression over the same symbols.
        params: Hyper-parameters with their defaults; after `settled`, those of the training in question.
        side: Whose whole rows a sample consists of: what the outer loop runs over.
        data: What `fit` is given: our `Ratings`, a Surprise trainset, or a SciPy CSR matrix. It is built
            before the clock starts.
        epochs: Name of the hyper-parameter that counts epochs, None where there is none.
        choices: Allowed values of hyper-parameters that are words or switches.
        accepts: Further names that `fit` takes and that cost nothing.
        required: Hyper-parameters without a default.
        variant: Fields that depend on switches; called with the hyper-parameters, and the ratings or None.
        alternatives: Changes of switches to name when memory does not suffice.
        words: How the memory comes about, for a refusal; `{I}` and the like are filled in.
        stays: Bytes of `memory` that the trained model keeps.
        events: How it tells where it is: lines on standard output, a callback, phases, or `eta.step()`.
        line: Pattern of such a line.
        extra: Extra of this package that brings it.
        modules: What has to be imported to run it.
        threads: Name of the hyper-parameter that counts threads, if any.
        calibrated: Whether the shipped bank of finished cases may hold it.
        about: One line for lists.
    """

    name: str
    fit: Callable[..., Any]
    time: tuple[str, ...]
    memory: str
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    side: Side = "user"
    data: Feed = "ratings"
    epochs: str | None = None
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict[str, tuple[Any, ...]])
    accepts: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    variant: Callable[[Mapping[str, Any], Ratings | None], Variant] | None = None
    alternatives: tuple[Mapping[str, Any], ...] = ()
    words: str = ""
    stays: str = "0"
    events: Events = "step"
    line: str = ""
    extra: str = ""
    modules: tuple[str, ...] = ()
    threads: str | None = None
    calibrated: bool = False
    about: str = ""

    def __call__(self, data: Any, **params: Any) -> Any:
        """Train: `fit`."""
        return self.fit(data, **params)

    def settled(self, params: Mapping[str, Any] | None = None, ratings: Ratings | None = None) -> TrainerRecord:
        """Return the record of one training: switches decided, every hyper-parameter given.

        Args:
            params: Hyper-parameters that differ from the defaults; text is read as the default's type.
            ratings: What will be trained on: some memory depends on more than the usual sums.

        Raises:
            UsageError: an unknown hyper-parameter, one without a value, or a value that is not allowed.
        """
        given = {name: self._value(name, value) for name, value in (params or {}).items()}
        full = {**self.params, **given}
        missing = [name for name in self.required if name not in full]
        if missing:
            raise UsageError(f"trainer {self.name!r} needs a value for {', '.join(missing)}: --set {missing[0]}=...")
        record = replace(self, params=full)
        if self.variant is not None:
            chosen = self.variant(full, ratings)
            record = replace(
                record, time=_with_constant(chosen.time), memory=chosen.memory, side=chosen.side, words=chosen.words,
                stays=chosen.stays,
            )  # fmt: skip
        if record.epochs not in record.term_params:
            # Some settings of a trainer have epochs, others not: neighbours without baselines.
            record = replace(record, epochs=None)
        # An unknown symbol is an error of the declaration: better now than after the first sample.
        _check_terms(record)
        return record

    def check_installed(self) -> None:
        """Import what it needs.

        Raises:
            MissingExtra: with the line that installs it.
        """
        for module in self.modules:
            try:
                importlib.import_module(module)
            except ImportError:
                raise MissingExtra.of(f"trainer {self.name!r}", self.extra or "train") from None

    @property
    def term_params(self) -> tuple[str, ...]:
        """Numeric hyper-parameters that the cost terms mention, in the order of `params`."""
        words = set(re.findall(r"[A-Za-z_]\w*", " ".join((*self.time, self.memory))))
        return tuple(name for name in self.params if name in words and not isinstance(self.params[name], bool))

    @property
    def walks(self) -> tuple[str, ...]:
        """Which walks the time mentions: `Wu`, `Wi`."""
        words = set(re.findall(r"[A-Za-z_]\w*", " ".join(self.time)))
        return tuple(name for name in ("Wu", "Wi") if name in words)

    @property
    def has_ramp(self) -> bool:
        """Whether the time depends on where the caches end."""
        return any("ramp" in term for term in self.time)

    def _value(self, name: str, value: Any) -> Any:
        known = [*self.params, *self.required, *self.accepts]
        if name not in known:
            raise UsageError(
                f"trainer {self.name!r} has no hyper-parameter {name!r}: {near_misses(name, known, noun='parameter')}\n"
                f"it takes {', '.join(known) or 'none'}"
            )
        read = _read(value, self.params.get(name)) if isinstance(value, str) else value
        if name in self.choices and read not in self.choices[name]:
            allowed = ", ".join(str(one) for one in self.choices[name])
            raise UsageError(f"trainer {self.name!r}, {name}={value!r}: allowed are {allowed}")
        default = self.params.get(name)
        if isinstance(default, int) and not isinstance(default, bool) and default > 0:
            if not isinstance(read, int) or isinstance(read, bool) or read < 1:
                raise UsageError(f"trainer {self.name!r}, {name}={value!r}: a whole number from 1 is needed")
        elif isinstance(default, bool) and not isinstance(read, bool):
            raise UsageError(f"trainer {self.name!r}, {name}={value!r}: true or false is needed")
        return read


def trainer(
    name: str,
    *,
    fit: Callable[..., Any],
    time: str | Sequence[str],
    memory: str = "0",
    params: Mapping[str, Any] | None = None,
    side: Side = "user",
    data: Feed = "ratings",
    epochs: str | None = None,
    **more: Any,
) -> TrainerRecord:
    """Declare a trainer.

    Args:
        name: What it is called; `my.mf` leaves the short names to the package.
        fit: Called as `fit(data, **params)`; what it takes are its hyper-parameters.
        time: What its time is a sum of, up to constants: one expression, or one for each term.
        memory: Peak bytes beyond the loaded data.
        params: Defaults of the hyper-parameters; None reads them from `fit`.
        side: Whether a sample consists of whole users or whole items.
        data: What `fit` gets: `ratings`, `trainset` or `csr`.
        epochs: Which hyper-parameter counts epochs; None looks for one of the usual names.
        more: Further fields of `TrainerRecord`.

    Raises:
        UsageError: an expression that cannot be read, or a term that can be negative by its sign.

    >>> mine = trainer("my.mf", fit=lambda data, n_factors=8, n_epochs=5: None,
    ...                time="n_epochs*n_factors*R + n_factors*(U+I)", memory="8*n_factors*(U+I)")
    >>> mine.time, mine.epochs, dict(mine.params)
    (('n_epochs*n_factors*R', 'n_factors*(U+I)', '1'), 'n_epochs', {'n_factors': 8, 'n_epochs': 5})
    """
    if not name or name.strip() != name:
        raise UsageError(f"a trainer's name must not be empty or end in spaces, got {name!r}")
    terms = _with_constant(split_sum(time) if isinstance(time, str) else tuple(time))
    found, required = _signature(fit) if params is None else (dict(params), ())
    counted = epochs or next((one for one in _EPOCH_NAMES if one in found or one in required), None)
    record = TrainerRecord(
        name=name, fit=fit, time=terms, memory=memory, params=found, side=side, data=data, epochs=counted,
        required=required, **more,
    )  # fmt: skip
    if record.variant is None:
        _check_terms(record)
    return record


def find(name: str | TrainerRecord) -> TrainerRecord:
    """Return the record of a trainer.

    Args:
        name: A registered name, `module:attribute`, or a record, which is returned.

    Raises:
        UsageError: no such name.
        PluginError: what is registered is no record, or does not import.
    """
    if isinstance(name, TrainerRecord):
        return name
    if ":" in name:
        return _imported(name)
    if name not in plugins.names(_GROUP):
        raise UsageError(
            f"unknown trainer {name!r}: {near_misses(name, names(), noun='trainer')}\n"
            f"known are {', '.join(names())}; one of your own: --trainer MODULE:NAME"
        )
    part = plugins.load(_GROUP, name, noun="trainer")
    if not isinstance(part, TrainerRecord):
        raise PluginError(
            f"trainer {name!r} from {plugins.origin(_GROUP, name)} is a {type(part).__name__}, not a TrainerRecord"
        )
    return part


def names() -> list[str]:
    """Return the names of all registered trainers, without importing any."""
    return plugins.names(_GROUP)


def split_sum(text: str) -> tuple[str, ...]:
    """Split an expression at the plus signs outside brackets.

    >>> split_sum("a*(b + c) + d")
    ('a*(b + c)', 'd')
    """
    parts: list[str] = [""]
    depth = 0
    for place, letter in enumerate(text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        before = text[:place].rstrip()[-1:]
        # The sign of `1e+6` belongs to the number, the one after an operator to its operand.
        exponent = re.search(r"(?<![A-Za-z_])\d[\d.]*[eE]$", text[:place]) is not None
        if letter == "+" and depth == 0 and before and before not in "*/+-(" and not exponent:
            parts.append("")
        else:
            parts[-1] += letter
    return tuple(part.strip() for part in parts)


def _with_constant(terms: Sequence[str]) -> tuple[str, ...]:
    return tuple(terms) if "1" in terms else (*terms, "1")


def _check_terms(record: TrainerRecord) -> None:
    from mlsysopt.train.estimate.terms import Terms

    allowed = [*record.params, *record.required]
    Terms([*record.time, record.memory], params=allowed)


def _imported(path: str) -> TrainerRecord:
    module, _, attribute = path.partition(":")
    # As for `python -m`: what lies in the working folder can be named.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"trainer {path!r}: {error}; MODULE:NAME must be importable from here") from None
    if not isinstance(found, TrainerRecord):
        raise UsageError(f"trainer {path!r} is a {type(found).__name__}; make one with estimate.trainer(...)")
    return found


def _signature(fit: Callable[..., Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    _, *parameters = inspect.signature(fit).parameters.values()
    named = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    defaults = {one.name: one.default for one in named if one.default is not one.empty}
    return defaults, tuple(one.name for one in named if one.default is one.empty)


def _read(text: str, default: Any) -> Any:
    lower = text.strip().lower()
    if isinstance(default, str):
        return text.strip()
    switch = default is None or isinstance(default, bool)
    if lower == "true" or (switch and lower in ("yes", "on")):
        return True
    if lower == "false" or (switch and lower in ("no", "off")):
        return False
    if lower in ("none", "null"):
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip()
