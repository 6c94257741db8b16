"""What is known about a training before it starts, and what that means for the limits."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlsysopt.core.errors import ArtefactError, UsageError
from mlsysopt.core.places import artefact_header, read_header
from mlsysopt.core.quantities import format_bytes, format_seconds
from mlsysopt.core.target import Failure
from mlsysopt.train.estimate.forecast import Forecast
from mlsysopt.train.estimate.intervals import scale_of
from mlsysopt.train.estimate.memory import Free, Peak

if TYPE_CHECKING:
    from mlsysopt.train.estimate.samples import Sample
    from mlsysopt.train.estimate.track import Tracker
    from mlsysopt.train.estimate.trainers.registry import TrainerRecord

__all__ = ["Estimate", "Verdict", "verdict_of"]

Verdict = Literal["fits", "does not fit", "undecided", "just train"]

_FORMAT = "estimate"


@dataclass(frozen=True, eq=False)
class Estimate:
    """What is known about a training before it starts; made by `run`.

    Attributes:
        trainer: Name of the trainer.
        params: Hyper-parameters in question.
        source: Where the ratings come from.
        digest: Of the ratings.
        forecast: Time as a formula with an interval; None where asking would have cost more than training.
        about_s: CPU seconds when there is no forecast.
        peak: Memory, by array.
        room: Memory that may be used.
        within_s: Limit of elapsed time, None without one.
        verdict: Whether the whole interval lies inside the limits.
        reasons: Why, one sentence each.
        spent_s: CPU seconds that asking cost; loading the full data is not among them.
        load_s: CPU seconds of loading the full data, which the training needs as well.
        wall_per_cpu: Elapsed over CPU seconds, as in the samples, times the present state of the machine.
        failures: Samples that failed.
        from_store: Samples that were taken before.
        machine: Key of the machine.
        load1: Load average at the end.
        record: The trainer's record; None when read from a file.
    """

    trainer: str
    params: dict[str, Any]
    source: str
    digest: str
    forecast: Forecast | None
    about_s: float
    peak: Peak
    room: Free
    within_s: float | None
    verdict: Verdict
    reasons: tuple[str, ...]
    spent_s: float
    load_s: float
    wall_per_cpu: float
    failures: tuple[Failure, ...] = ()
    from_store: int = 0
    machine: str = ""
    load1: float = 0.0
    record: TrainerRecord | None = field(default=None, repr=False)

    @property
    def exit_code(self) -> int:
        """0 inside the limits, 1 outside, 4 undecided."""
        return {"fits": 0, "just train": 0, "does not fit": 1, "undecided": 4}[self.verdict]

    @property
    def seconds(self) -> float:
        """CPU seconds of the full training."""
        return self.about_s if self.forecast is None else self.forecast.seconds

    @property
    def low(self) -> float:
        """Lower end of the interval, CPU seconds."""
        return 0.0 if self.forecast is None else self.forecast.low

    @property
    def high(self) -> float:
        """Upper end of the interval, CPU seconds."""
        return self.about_s if self.forecast is None else self.forecast.high

    @property
    def wall_s(self) -> float:
        """Elapsed seconds, if the training gets as much of the machine as the samples did."""
        return self.seconds * self.wall_per_cpu

    @property
    def peak_bytes(self) -> int:
        """Highest memory of the whole process."""
        return self.peak.bytes

    @property
    def samples(self) -> tuple[Sample, ...]:
        """What was measured."""
        return () if self.forecast is None else self.forecast.samples

    def at(self, **params: Any) -> Forecast:
        """Return the forecast for other hyper-parameters, without a new sample; see `Forecast.at`."""
        return self._known().at(**params)

    def changed(self, params: Mapping[str, Any]) -> Estimate:
        """Return the answer for other hyper-parameters, without a new sample; text is read as the present value's type.

        Raises:
            UsageError: an unknown hyper-parameter, or one that needs samples of its own.
        """
        from mlsysopt.train.estimate.memory import peak_of
        from mlsysopt.train.estimate.trainers.registry import TrainerRecord

        forecast = self._known()
        like = TrainerRecord(
            name=self.trainer, fit=print, time=forecast.terms, memory=forecast.memory, params=self.params
        ).settled(params)
        other = forecast.at(**like.params)
        peak = peak_of(like, forecast.characteristics, samples=forecast.samples)
        verdict, reasons = verdict_of(other, 0.0, peak, self.room, self.within_s, self.wall_per_cpu)
        return replace(
            self, params=dict(like.params), forecast=other, peak=peak, verdict=verdict, reasons=reasons, record=None
        )

    def formula(self) -> str:
        """Return CPU seconds as a sum of terms."""
        return self._known().formula()

    def track(self, **options: Any) -> Tracker:
        """Watch the full training while it runs; see `Tracker`."""
        from mlsysopt.train.estimate.track import Tracker

        return Tracker.of(self, **options)

    def report(self, folder: str | Path, *, command: str = "mlsysopt estimate run") -> Path:
        """Write the HTML report and return its page."""
        from mlsysopt.train.estimate.explain import report

        return report(self, command=command).write(folder)

    def write(self, path: str | Path) -> Path:
        """Write everything to a file that `read`, `explain` and `run(model=...)` take."""
        target = Path(path)
        part = target.with_name(target.name + ".part")
        part.write_text(self.to_json(), encoding="utf-8")
        part.replace(target)
        return target

    def to_json(self) -> str:
        """Return everything as text; a `Forecast` can be read from it as well."""
        content = (
            json.loads(self.forecast.to_json())
            if self.forecast is not None
            else {
                **artefact_header(_FORMAT, 1, machine=self.machine or None),
                "trainer": self.trainer,
                "params": self.params,
            }
        )
        content["run"] = self.about()
        return json.dumps(content, indent=1) + "\n"

    def about(self) -> dict[str, Any]:
        """Return the answer without the forecast's details, as JSON values."""
        return {
            "trainer": self.trainer,
            "params": self.params,
            "source": self.source,
            "digest": self.digest,
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "reasons": list(self.reasons),
            "seconds": self.seconds,
            "low": self.low,
            "high": self.high if math.isfinite(self.high) else None,
            "wall_s": self.wall_s,
            "wall_per_cpu": self.wall_per_cpu,
            "about_s": self.about_s,
            "within_s": self.within_s,
            "peak": self.peak.as_dict(),
            "free": {"bytes": self.room.bytes, "limit": self.room.limit, "all": dict(self.room.all)},
            "spent_s": self.spent_s,
            "load_s": self.load_s,
            "from_store": self.from_store,
            "machine": self.machine,
            "load1": self.load1,
            "failures": [{"kind": one.kind, "reason": one.reason, "log_tail": one.log_tail} for one in self.failures],
        }

    @classmethod
    def read(cls, path: str | Path) -> Estimate:
        """Read what `write` wrote.

        Raises:
            ArtefactError: no estimate, a newer one, or damaged.
        """
        where = Path(path)
        try:
            text = where.read_text(encoding="utf-8")
            content = json.loads(text)
        except FileNotFoundError:
            raise ArtefactError(f"{where}: there is no such file") from None
        except (ValueError, OSError) as error:
            raise ArtefactError(f"{where}: this is no estimate file: {error}") from None
        read_header(content, _FORMAT, 1)
        try:
            about = content["run"]
            peak, room = about["peak"], about["free"]
            return cls(
                trainer=about["trainer"],
                params=about["params"],
                source=about["source"],
                digest=about["digest"],
                forecast=Forecast.from_json(text) if "terms" in content else None,
                about_s=about["about_s"],
                peak=Peak(peak["process"], peak["loaded"], peak["arrays"], peak["other"], peak["measured"]),
                room=Free(room["bytes"], room["limit"], room["all"]),
                within_s=about["within_s"],
                verdict=about["verdict"],
                reasons=tuple(about["reasons"]),
                spent_s=about["spent_s"],
                load_s=about["load_s"],
                wall_per_cpu=about["wall_per_cpu"],
                failures=tuple(Failure(one["kind"], one["reason"], one["log_tail"]) for one in about["failures"]),
                from_store=about["from_store"],
                machine=about["machine"],
                load1=about["load1"],
            )
        except (KeyError, TypeError) as error:
            raise ArtefactError(f"{where}: this estimate file is damaged: {type(error).__name__}: {error}") from None

    def __str__(self) -> str:
        from mlsysopt.train.estimate.explain import text

        return text(self)

    def _known(self) -> Forecast:
        if self.forecast is None:
            raise UsageError(
                f"there is no formula: training takes about {format_seconds(self.about_s)}, less than asking; "
                "run(..., always=True) samples all the same"
            )
        return self.forecast


def verdict_of(
    forecast: Forecast | None, about_s: float, peak: Peak, room: Free, within_s: float | None, wall_per_cpu: float
) -> tuple[Verdict, tuple[str, ...]]:
    """Compare both intervals with the limits; return the verdict and its reasons."""
    outside, open_, inside = [], [], []
    low, high = (0.0, about_s) if forecast is None else (forecast.low, forecast.high)
    if within_s is not None:
        shown = f"{_span(low * wall_per_cpu, high * wall_per_cpu, format_seconds)} against {format_seconds(within_s)}"
        if low * wall_per_cpu > within_s:
            outside.append(f"too slow: {shown}")
        elif high * wall_per_cpu > within_s:
            open_.append(f"time undecided: {shown}; {_helpful(forecast, within_s / wall_per_cpu)}")
        else:
            inside.append(f"in time: {shown}")
    shown = f"{_span(peak.low, peak.high, format_bytes)} against {room.text()}"
    if peak.low > room.bytes:
        outside.append(f"too large: {shown}")
    elif peak.high > room.bytes:
        open_.append(f"memory undecided: {shown}; free some, or take a share of the data")
    else:
        inside.append(f"memory suffices: {shown}")
    if outside:
        return "does not fit", tuple(outside + open_)
    if open_:
        return "undecided", tuple(open_ + inside)
    return ("just train" if forecast is None else "fits"), tuple(inside)


def _span(low: float, high: float, shown: Callable[[float], str]) -> str:
    return f"[{shown(low)}, {shown(high) if math.isfinite(high) else '?'}]"


def _helpful(forecast: Forecast | None, limit_s: float) -> str:
    """Say which budget would probably decide, or that none would."""
    if forecast is None or not math.isfinite(forecast.high):
        return "a larger --budget decides"
    needed = abs(math.log(limit_s / forecast.seconds))
    side = (
        math.log(forecast.high / forecast.seconds)
        if limit_s > forecast.seconds
        else math.log(forecast.seconds / max(forecast.low, 1e-9))
    )
    now = scale_of(forecast.rho, forecast.rolling_error)
    # The interval is a constant times this scale: how small has it to become, and which sample makes it so?
    wanted = 0.9 * needed / (side / now) if side > 0 else 0.0
    rest = wanted**2 - max(forecast.rolling_error * 0.8, 0.03) ** 2
    if rest <= 0:
        return "no budget below the training itself would decide that"
    rho = math.exp(math.sqrt(rest) / 0.1)
    if rho <= 2.0:
        return "no budget below the training itself would decide that"
    # Rungs that grow by 1.7 cost together 2.4 times the largest.
    budget = max(2.4 * forecast.seconds / rho, 1.5 * forecast.spent_s)
    return f"--budget {math.ceil(budget)}s would probably decide it"
