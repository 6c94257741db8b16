"""What the estimator's benches share: situations, questions, timed truths and samples, and the table of errors.

Every truth and every sample is a fork of one host process, as in the library; truths and samples are
shuffled into one another, so that a drifting machine drifts for both, and both are brought to the mean
pace of the machine, read beside each. Errors against the seconds as they were timed are shown as well.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlsysopt.core.target import Failure
from mlsysopt.train.estimate import synthetic
from mlsysopt.train.estimate.characteristics import Characteristics
from mlsysopt.train.estimate.clock import evened, staircase
from mlsysopt.train.estimate.forecast import Forecast, Sample, fit
from mlsysopt.train.estimate.forks import LEAST_CPU_S
from mlsysopt.train.estimate.host import Host, Job, Reading
from mlsysopt.train.estimate.intervals import Bank, Case
from mlsysopt.train.estimate.ratings import Ratings
from mlsysopt.train.estimate.sampling import Rung, ladder, subset
from mlsysopt.train.estimate.synthetic import Shape
from mlsysopt.train.estimate.trainers import TrainerRecord, find
from mlsysopt.train.estimate.typical import Typical

ORDERS = ("user", "time", "shuffled")
# Users to items, 4:1, 1:1, 1:4, for SIZED_FOR ratings.
SIDES = ((7_000, 1_750), (4_000, 4_000), (2_000, 8_000))
SIZED_FOR = 200_000
# The library climbs to half of the rows; a budget ends the climb earlier.
LADDER = 0.36
MODULES = ("surprise", "implicit.cpu.als", "scipy.sparse")
RECORDED = Path(__file__).parent.parent / "tests" / "tables" / "estimate-cases.jsonl"
# A truth is timed this often, or until so many CPU seconds are spent on it.
_TRUTHS, _TRUTH_S = 3, 4.0
# A sample that took longer is not repeated: a second one would cost more than it tells.
_LONG_S = 0.1


@dataclass(frozen=True, slots=True)
class Question:
    """A trainer with hyper-parameters: those that samples are designed for, and where they differ, those asked for."""

    label: str
    trainer: str | TrainerRecord
    params: Mapping[str, Any]
    asked: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def record(self, ratings: Ratings | None = None, params: Mapping[str, Any] | None = None) -> TrainerRecord:
        return find(self.trainer).settled({**self.params, **(params or {})}, ratings)


QUESTIONS = (
    Question("svd", "svd", {"n_factors": 20, "n_epochs": 40}),
    Question("svdpp", "svdpp", {"n_factors": 10, "n_epochs": 1}),
    Question("nmf", "nmf", {"n_factors": 15, "n_epochs": 25}),
    Question("knn-item", "knn", {"sim": "cosine", "user_based": False}),
    Question("knn-user", "knn", {"sim": "msd", "user_based": True}),
    Question("slopeone", "slopeone", {}),
    Question("cocluster", "cocluster", {"n_epochs": 12}),
    Question("baseline", "baseline", {"method": "als", "n_epochs": 50}),
    Question("als", "als", {"factors": 32, "iterations": 40}),
)

# Settings whose terms are others, and sizes far from those above: on the fitting shapes only, so that their
# proportions are known as well.
SETTINGS = (
    Question("svd-100", "svd", {"n_factors": 100, "n_epochs": 10}),
    Question("nmf-60", "nmf", {"n_factors": 60, "n_epochs": 8}),
    Question("als-20", "als", {"factors": 20, "iterations": 30}),
    Question("als-100", "als", {"factors": 100, "iterations": 10}),
    Question("baseline-sgd", "baseline", {"method": "sgd", "n_epochs": 40}),
    Question("als-cholesky", "als", {"solver": "cholesky", "factors": 32, "iterations": 10}),
    Question("knn-item-means", "knn", {"kind": "means", "sim": "pearson", "user_based": False}),
    Question("knn-user-means", "knn", {"kind": "means", "sim": "msd", "user_based": True}),
    Question("knn-item-baseline", "knn", {"kind": "baseline", "sim": "msd", "user_based": False}),
    Question("knn-user-baseline", "knn", {"kind": "baseline", "sim": "cosine", "user_based": True}),
)


@dataclass(frozen=True, slots=True)
class Situation:
    """One data set."""

    name: str
    ratings: Ratings


@dataclass(frozen=True, slots=True)
class Outcome:
    """A question on a situation: what it took, and what was sampled for it.

    Attributes:
        truths: CPU seconds of full fits, brought to the mean pace of the machine, as samples are.
        timed: The same as they were timed.
    """

    situation: str
    question: str
    seed: int
    record: TrainerRecord
    full: Characteristics
    truths: tuple[float, ...]
    samples: tuple[Sample, ...]
    asked: Mapping[str, Any] = field(default_factory=dict[str, Any])
    timed: tuple[float, ...] = ()

    @property
    def truth_s(self) -> float:
        return statistics.median(self.truths)

    def forecast(self, bank: Bank | None = None, typical: Typical | None = None) -> Forecast:
        calibrated = self.record.calibrated
        found = fit(
            self.record, self.samples, self.full, calibrated=calibrated, bank=bank or Bank(()), typical=typical
        )  # fmt: skip
        return found.at(**self.asked) if self.asked else found

    @property
    def timed_s(self) -> float:
        """What a user would have seen: the seconds as they were timed."""
        return statistics.median(self.timed or self.truths)

    def case(self, typical: Typical | None = None) -> Case:
        found = self.forecast(typical=typical)
        return Case(self.record.name, self.situation, self.timed_s, found.seconds, found.rho, found.rolling_error)

    def told(self) -> dict[str, float]:
        """Return what the white box and every rival said, CPU seconds."""
        return {rival.name: rival.seconds for rival in self.forecast().rivals}

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values, times to five digits."""
        return {
            "situation": self.situation,
            "question": self.question,
            "trainer": self.record.name,
            "seed": self.seed,
            "settings": dict(self.record.params),
            "asked": dict(self.asked),
            "full": _short(self.full.as_dict()),
            "truths": [digits(value) for value in self.truths],
            "timed": [digits(value) for value in self.timed],
            "samples": [_short(sample.as_dict()) for sample in self.samples],
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Outcome:
        return cls(
            row["situation"],
            row["question"],
            row["seed"],
            find(row["trainer"]).settled(row["settings"]),
            Characteristics.from_dict(row["full"]),
            tuple(row["truths"]),
            tuple(Sample.from_dict(one) for one in row["samples"]),
            row.get("asked", {}),
            tuple(row.get("timed", ())),
        )


def situations(
    shapes: Sequence[Shape], n_ratings: int, *, orders: Sequence[str] = ORDERS, seed: int = 1
) -> list[Situation]:
    """Draw one data set for each shape: another order and another side that is longer for each."""
    found: list[Situation] = []
    for k, shape in enumerate(shapes):
        n_users, n_items = (int(side * math.sqrt(n_ratings / SIZED_FOR)) for side in SIDES[k % len(SIDES)])
        order: Any = orders[k % len(orders)]
        data = synthetic.ratings(
            shape.users, shape.items, n_users=n_users, n_items=n_items, n_ratings=n_ratings, order=order,
            locality=shape.locality, seed=seed + k,
        )  # fmt: skip
        found.append(Situation(f"{shape.name} {n_users}x{n_items} {order}", data))
    return found


class Laboratory:
    """The host and the ramp of this machine.

    Args:
        modules: What the host imports before it forks.

    Attributes:
        sampling_s: CPU seconds of the samples' fits, repeats inside a timing included.
        building_s: CPU seconds of what is around them: forks, reading and building data, first calls.
        truth_s: CPU seconds of the full fits, each counted once; what is around them is not.
        loading_s: CPU seconds of loading and walking the full data.
        busy: Samples that were repeated because the machine changed its pace while they ran.
        failures: What did not run, in words.
    """

    def __init__(self, modules: tuple[str, ...] = MODULES) -> None:
        self._modules = modules
        self.sampling_s = self.building_s = self.truth_s = self.loading_s = 0.0
        self.busy = 0
        self.failures: list[str] = []

    def __enter__(self) -> Laboratory:
        self._host = Host(modules=self._modules)
        self._host.__enter__()
        self._ramp = staircase().ramp()
        return self

    def __exit__(self, *error: Any) -> None:
        self._host.__exit__(*error)

    def keep(self, ratings: Ratings) -> str:
        return self._host.keep(ratings)

    def forget(self, path: str) -> None:
        self._host.forget(path)

    def time(
        self, path: str, record: TrainerRecord, params: Mapping[str, Any], *, least_cpu_s: float = LEAST_CPU_S
    ) -> Reading | None:
        """Return the reading of one training; None after a failure."""
        given = {**record.params, **params}
        reading = self._host.ask(Job(path, record, given, record.walks, record.data, least_cpu_s=least_cpu_s))
        if isinstance(reading, Failure):
            self.failures.append(f"{record.name}: {reading.kind}: {reading.reason}")
            return None
        return reading

    def sizes(self, ratings: Ratings, walks: Mapping[str, float]) -> Characteristics:
        low, high = self._ramp
        timed = ratings.characteristics.with_walk(**walks)
        return timed.with_ramp(W1=low, W2=high) if 0 < low < high else timed

    def sample(self, ratings: Ratings, record: TrainerRecord, rung: Rung) -> Sample | None:
        """Train on the rows of a rung."""
        part = subset(ratings, record.side, rung.share, seed=rung.seed, tilt=rung.tilt)
        path = self.keep(part)
        found: Reading | None = None
        try:
            for _ in range(2):
                reading = self.time(path, record, rung.params)
                if reading is None:
                    break
                # What was thrown away was paid for as well.
                self.sampling_s += reading.cpu_s * reading.repeats
                self.building_s += reading.spent_s - reading.cpu_s * reading.repeats
                if found is None or not reading.disturbed:
                    found = reading
                if not reading.disturbed or reading.cpu_s > _LONG_S:
                    break
                self.busy += 1
        finally:
            self.forget(path)
        if found is None:
            return None
        return Sample(
            min(1.0, rung.share), self.sizes(part, found.walks), dict(rung.params), found.cpu_s, found.wall_s,
            weight=0.5 if found.disturbed else 1.0, peak_bytes=found.peak_bytes, seed=rung.seed,
            repeats=found.repeats, pace_s=found.pace_s, spent_s=found.spent_s,
        )  # fmt: skip

    def walk(self, path: str) -> dict[str, float]:
        """Time both walks over the full data."""
        reading = self._host.ask(Job(path, None, {}, ("Wu", "Wi"), "trainset"))
        if isinstance(reading, Failure):
            raise SystemExit(f"the full data cannot be loaded: {reading.reason}")
        self.loading_s += reading.spent_s
        return reading.walks


def paper(record: TrainerRecord, ratings: Ratings, seed: int) -> list[Rung]:
    """Return at most a tenth of the rows, and the full training's own hyper-parameters."""
    return list(ladder(record, ratings, seed=seed, protocol="paper"))


def crossed(record: TrainerRecord, ratings: Ratings, seed: int) -> list[Rung]:
    """Return the library's own ladder up to a third of the rows: every hyper-parameter varies."""
    return [rung for rung in ladder(record, ratings, seed=seed) if rung.share <= LADDER]


def alternating(record: TrainerRecord, ratings: Ratings, seed: int) -> list[Rung]:
    """Return the paper's rungs for odd thousands, the library's own for even ones."""
    return (paper if seed // 1000 % 2 else crossed)(record, ratings, seed)


def outcomes(
    lab: Laboratory,
    where: Iterable[Situation],
    questions: Sequence[Question] = QUESTIONS,
    *,
    seeds: Sequence[int] = (1,),
    design: Any = paper,
    truths: int = _TRUTHS,
    sides: Mapping[str, str] | None = None,
) -> list[Outcome]:
    """Time truths and samples of every question on every situation, shuffled into one another.

    Args:
        lab: Where they run.
        where: The data sets.
        questions: What is asked on each.
        seeds: Of the sampled rows; each gives an outcome of its own on the same truths.
        design: (record, ratings, seed) -> rungs.
        truths: Most full fits of one question.
        sides: Question label -> side to sample by, where it is not the trainer's own.
    """
    found: list[Outcome] = []
    for number, situation in enumerate(where):
        print(f"  {situation.name}", file=sys.stderr, flush=True)
        path = lab.keep(situation.ratings)
        walked: list[dict[str, float]] = []
        fits: dict[str, list[Reading]] = {question.label: [] for question in questions}
        taken: dict[tuple[str, int], list[Sample]] = {(q.label, seed): [] for q in questions for seed in seeds}
        jobs: list[tuple[str, Any, Any, int]] = [("walk", None, None, 0)] * 3
        jobs += [("truth", question, None, 0) for question in questions for _ in range(truths)]
        for question, seed in itertools.product(questions, seeds):
            record = sampled_by(question.record(situation.ratings), (sides or {}).get(question.label))
            # Seeds of neighbouring rungs follow one another: those of two designs must not meet.
            jobs += [("sample", question, rung, seed) for rung in design(record, situation.ratings, 1000 * seed)]
        for place in np.random.default_rng(number).permutation(len(jobs)):
            kind, question, rung, seed = jobs[place]
            if kind == "walk":
                walked.append(lab.walk(path))
                continue
            record = question.record(situation.ratings)
            if kind == "truth":
                # Long fits tell as much from one timing as short ones from three.
                if sum(one.cpu_s for one in fits[question.label]) < _TRUTH_S:
                    timed = lab.time(path, record, question.asked, least_cpu_s=0)
                    fits[question.label] += [timed] if timed is not None else []
                continue
            sample = lab.sample(situation.ratings, sampled_by(record, (sides or {}).get(question.label)), rung)
            if sample is not None:
                taken[question.label, seed].append(sample)
        lab.forget(path)
        walks = {name: statistics.median(one[name] for one in walked) for name in walked[0]}
        full = lab.sizes(situation.ratings, walks)
        # One pace for everything that was timed on these data: a full fit of a second runs at one of the
        # machine's paces by chance, just as a sample does.
        paces = [one.pace_s for readings in (*fits.values(), *taken.values()) for one in readings]
        pace = statistics.mean(paces) if paces else 1.0
        for (label, seed), samples in taken.items():
            question = next(one for one in questions if one.label == label)
            if not fits[label] or len(samples) < 3:
                lab.failures.append(f"{situation.name}, {label}: {len(fits[label])} truths, {len(samples)} samples")
                continue
            even = [one.at_pace(pace) for one in samples]
            found.append(
                Outcome(
                    situation.name,
                    label,
                    seed,
                    question.record(situation.ratings),
                    full,
                    tuple(at_pace(one, pace) for one in fits[label]),
                    tuple(sorted(even, key=lambda one: one.rows_share)),
                    dict(question.asked),
                    tuple(one.cpu_s for one in fits[label]),
                )
            )
        lab.truth_s += sum(statistics.median(one.cpu_s for one in readings) for readings in fits.values() if readings)
    return found


def at_pace(reading: Reading, pace_s: float) -> float:
    """Return the CPU seconds of a training as if the machine had run at this pace, as is done with samples."""
    lasted_s = reading.wall_s * reading.repeats
    return evened(reading.cpu_s, read_s=reading.pace_s, pace_s=pace_s, lasted_s=lasted_s)


def sampled_by(record: TrainerRecord, side: Any) -> TrainerRecord:
    """Return the record with another side to take whole rows of; None leaves it."""
    return record if side is None else replace(record, side=side)


def write_recorded(found: Sequence[Outcome], path: Path = RECORDED) -> None:
    """Keep outcomes as lines of JSON, so that intervals can be judged without training anything."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(one.as_dict(), separators=(",", ":")) + "\n" for one in found))


def read_recorded(path: Path = RECORDED) -> list[Outcome]:
    return [Outcome.from_dict(json.loads(line)) for line in path.read_text().splitlines() if line]


def with_order(situation: Situation, order: str, seed: int) -> Situation:
    """Return the same ratings with their rows sorted by user, or shuffled."""
    data = situation.ratings
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(data)) if order == "shuffled" else np.argsort(data.user, kind="stable")
    name = f"{situation.name.rsplit(' ', 1)[0]} {order}"
    return replace(situation, name=name, ratings=data.reordered(rows))


def digits(value: float) -> float:
    return float(f"{value:.5g}")


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            found[name] = _short(value)
        elif value is not None and value != "" and not (name == "extra" and not value):
            found[name] = digits(value) if isinstance(value, float) else value
    return {name: value for name, value in found.items() if value != {} or name == "params"}
