"""How much a study may spend: trials, or seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlsysopt.core.errors import QuantityError, StudyError
from mlsysopt.core.quantities import format_seconds, parse_quantity

if TYPE_CHECKING:
    import optuna

__all__ = ["Budget"]


@dataclass(frozen=True, slots=True)
class Budget:
    """A number of trials (the default included) or a time in seconds; exactly one is set."""

    trials: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, given: Budget | int | float | str) -> Budget:
        """Read `20` as trials and `4min` as time.

        Raises:
            StudyError: neither a whole number of trials nor a time, or not positive.

        >>> Budget.parse("4min").seconds
        240.0
        >>> Budget.parse(20).trials
        20
        """
        if isinstance(given, Budget):
            return given
        text = str(given).strip()
        if text.lstrip("+-").isdigit():
            trials = int(text)
            if trials < 2:
                raise StudyError(f"budget {text}: at least 2 trials are needed, the default and one candidate")
            return cls(trials=trials)
        try:
            seconds = float(parse_quantity(text, kind="seconds"))
        except QuantityError as error:
            raise StudyError(
                f"budget {text!r}: a number of trials (20) or a time (4min, 90s) is needed; {error}"
            ) from None
        if seconds <= 0:
            raise StudyError(f"budget {text!r}: the time must be positive")
        return cls(seconds=seconds)

    def announce(self, study: optuna.Study, *, aside_s: float = 0.0) -> None:
        """Write what trials may spend where samplers that pace themselves by it look.

        Args:
            study: Gets the user attribute `budget_trials` or `budget_s`.
            aside_s: Seconds of the budget that are kept for something else.
        """
        key, value = "budget_trials", self.trials
        if self.seconds is not None:
            key, value = "budget_s", max(self.seconds - aside_s, 1e-3)
        if study.user_attrs.get(key) != value:
            study.set_user_attr(key, value)

    def text(self) -> str:
        """Return it for people."""
        return f"{self.trials} trials" if self.trials is not None else format_seconds(self.seconds or 0.0)
