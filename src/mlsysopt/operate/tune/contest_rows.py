"""What each tuner of a contest did and came to: one entry a seed, one row a tuner, the gap to random search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlsysopt.core.stats import SequentialRule, hodges_lehmann, holm, paired_t, signed_rank_p
from mlsysopt.core.study.result import Candidate

__all__ = ["KEEPS", "RANDOM", "SIGNIFICANT_SEEDS", "UNUSABLE", "Entry", "Row", "fairness", "gap_below", "rows_of"]

RANDOM = "random"
SIGNIFICANT_SEEDS = 5
"""Below so many seeds a test over seeds cannot say anything; intervals are printed alone."""

KEEPS = "keeps the default"
UNUSABLE = ("guard broken", "failed")
"""Verdicts of a winner that nobody can use: its tuner comes to the default."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tuner with one seed.

    Attributes:
        tuner: Name of the sampler.
        validity: "all", "learned" or "none".
        seed: Seed of its study.
        study: Name of its study in the store.
        counts: Trials by state, the default left out.
        worked: Valid trials after the starts.
        tried: Trials after the starts.
        spent_s: Seconds in which the target was occupied.
        ask_cpu_s: CPU seconds that the sampler took.
        longest_s: Seconds of its longest trial.
        observed: Ratio of its winner that the search saw; 1 where it keeps the default.
        config: Its winner; None where no trial beat the default within the guards.
        winner: The winner as it was verified, before that as the search saw it; None where there is none.
        curve: (seconds spent, best ratio seen so far), a point a trial.
        rules: What it learned: text, origin, hard.
    """

    tuner: str
    validity: str
    seed: int
    study: str
    counts: Mapping[str, int]
    worked: int
    tried: int
    spent_s: float
    ask_cpu_s: float
    longest_s: float
    observed: float
    config: Mapping[str, Any] | None
    winner: Candidate | None = None
    curve: tuple[tuple[float, float], ...] = ()
    rules: tuple[Mapping[str, Any], ...] = ()

    @property
    def trials(self) -> int:
        """Trials that were measured."""
        return sum(self.counts.values())

    @property
    def verdict(self) -> str:
        """The verdict of its winner; a tuner without one keeps the default."""
        if self.config is None:
            return KEEPS
        return self.winner.verdict if self.winner is not None else "unverified"

    def verified(self, metric: str) -> tuple[float, float, float]:
        """Return the verified ratio with its interval; exactly 1 where the default is what it comes to."""
        if self.winner is None or self.verdict in UNUSABLE or metric not in self.winner.ratios:
            return 1.0, 1.0, 1.0
        ratio = self.winner.ratios[metric]
        return ratio.value, ratio.low, ratio.high

    def logs(self, metric: str) -> list[float] | None:
        """Return ln(candidate / default) per verified round; None where it is the default itself."""
        if self.winner is None or self.verdict in UNUSABLE or metric not in self.winner.ratios:
            return None
        return [math.log(value) for value in self.winner.ratios[metric].per_round]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        return {
            **plain,
            "counts": dict(self.counts),
            "config": dict(self.config) if self.config is not None else None,
            "winner": self.winner.to_json() if self.winner is not None else None,
            "curve": [list(point) for point in self.curve],
            "rules": [dict(rule) for rule in self.rules],
        }

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> Entry:
        """Read what `to_json` wrote."""
        return cls(
            **{name: obj[name] for name in _PLAIN},
            counts=obj["counts"],
            config=obj["config"],
            winner=Candidate.from_json(obj["winner"]) if obj["winner"] else None,
            curve=tuple((x, y) for x, y in obj["curve"]),
            rules=tuple(obj["rules"]),
        )


_PLAIN = ("tuner", "validity", "seed", "study", "worked", "tried", "spent_s", "ask_cpu_s", "longest_s", "observed")


@dataclass(frozen=True, slots=True)
class Row:
    """One tuner over all seeds.

    Attributes:
        tuner: Name of the sampler.
        validity: "all", "learned" or "none".
        verdict: Of its winner; of several seeds, how many are proven.
        ratio: Verified ratio to the default, the geometric mean over seeds; None while nothing is verified.
        low: Lower end of its 95 % interval.
        high: Upper end.
        gap: ln of its gain over random search's, paired: by round for one seed, by seed for several.
        gap_low: Lower end of its 95 % interval.
        gap_high: Upper end.
        p_value: Wilcoxon's, corrected by Holm; None below five seeds.
        valid_share: Share of its trials after the starts that were valid.
        entries: One a seed.
    """

    tuner: str
    validity: str
    verdict: str
    ratio: float | None
    low: float | None
    high: float | None
    gap: float | None
    gap_low: float | None
    gap_high: float | None
    p_value: float | None
    valid_share: float | None
    entries: tuple[Entry, ...]

    @property
    def trials(self) -> int:
        """Trials of all seeds."""
        return sum(entry.trials for entry in self.entries)

    @property
    def spent_s(self) -> float:
        """Seconds in which the target was occupied, all seeds together."""
        return sum(entry.spent_s for entry in self.entries)

    @property
    def ask_cpu_s(self) -> float:
        """CPU seconds of the sampler, all seeds together."""
        return sum(entry.ask_cpu_s for entry in self.entries)

    @property
    def observed(self) -> float:
        """Ratio that the searches saw, the geometric mean over seeds; unverified."""
        return math.exp(sum(math.log(entry.observed) for entry in self.entries) / len(self.entries))

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; an open end of an interval becomes None."""
        record = {name: _finite(getattr(self, name)) for name in _COLUMNS}
        sums = {"trials": self.trials, "spent_s": self.spent_s, "ask_cpu_s": self.ask_cpu_s}
        return {**record, **sums, "entries": [entry.to_json() for entry in self.entries]}

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> Row:
        """Read what `to_json` wrote."""
        record = {name: obj[name] for name in _COLUMNS}
        for centre, ends in (("ratio", {"high": math.inf}), ("gap", {"gap_low": -math.inf, "gap_high": math.inf})):
            if record[centre] is not None:
                record |= {end: value for end, value in ends.items() if record[end] is None}
        return cls(**record, entries=tuple(Entry.from_json(entry) for entry in obj["entries"]))


_COLUMNS = (
    "tuner", "validity", "verdict", "ratio", "low", "high", "gap", "gap_low", "gap_high", "p_value", "valid_share",
)  # fmt: skip


def rows_of(
    entries: Sequence[Entry], *, metric: str, better: str, looks: Sequence[int], verified: bool
) -> tuple[Row, ...]:
    """Return a row a tuner; verified ones the best first, others in the order of the entries.

    Args:
        entries: Every tuner with every seed.
        metric: What decides.
        better: Its direction, "higher" or "lower".
        looks: Rounds after which the verification could stop.
        verified: Whether the verification was finished.
    """
    sign = 1.0 if better == "higher" else -1.0
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.tuner, entry.validity), []).append(entry)
    if not verified:
        return tuple(_row(group, "unverified") for group in groups.values())
    gaps: dict[tuple[str, str], tuple[float, float, float]] = {}
    tests: dict[tuple[str, str], float] = {}
    for key, group in groups.items():
        peers = {entry.seed: entry for entry in groups.get((RANDOM, key[1]), [])}
        pairs = [(entry, peers[entry.seed]) for entry in group if entry.seed in peers]
        if key[0] != RANDOM and pairs:
            gaps[key] = _gap(pairs, metric, sign, looks)
            if len(pairs) >= SIGNIFICANT_SEEDS:
                tests[key] = signed_rank_p([_apart(entry, peer, metric, sign) for entry, peer in pairs])
    adjusted = dict(zip(tests, holm(list(tests.values())), strict=True))
    rows = [
        _row(group, _verdict(group), _over_seeds(group, metric), gaps.get(key), adjusted.get(key))
        for key, group in groups.items()
    ]
    return tuple(sorted(rows, key=lambda row: -sign * math.log(row.ratio or 1.0)))


Interval = tuple[float, float, float]


def _row(
    group: Sequence[Entry],
    verdict: str,
    ratio: Interval | None = None,
    gap: Interval | None = None,
    p: float | None = None,
) -> Row:
    tried = sum(entry.tried for entry in group)
    share = sum(entry.worked for entry in group) / tried if tried else None
    first, ends, gaps = group[0], ratio or (None, None, None), gap or (None, None, None)
    return Row(first.tuner, first.validity, verdict, *ends, *gaps, p, share, tuple(group))


def _verdict(group: Sequence[Entry]) -> str:
    words = [entry.verdict for entry in group]
    if len(set(words)) == 1:
        return words[0] if len(words) == 1 else f"all {words[0]}" if words[0] == "proven" else words[0]
    return f"{words.count('proven')} of {len(words)} proven"


def _over_seeds(group: Sequence[Entry], metric: str) -> Interval:
    """Return the ratio of one seed, or the geometric mean of several with Student's interval over seeds."""
    if len(group) == 1:
        return group[0].verified(metric)
    found = paired_t([math.log(entry.verified(metric)[0]) for entry in group])
    return math.exp(found.estimate), math.exp(found.low), math.exp(found.high)


def _apart(entry: Entry, peer: Entry, metric: str, sign: float) -> float:
    return sign * (math.log(entry.verified(metric)[0]) - math.log(peer.verified(metric)[0]))


def _gap(pairs: Sequence[tuple[Entry, Entry]], metric: str, sign: float, looks: Sequence[int]) -> Interval:
    """Return how far tuners are above random search, in ln of the gain.

    One seed: both winners were measured in the same rounds, so that the default cancels; one that was decided
    earlier has fewer, and the rounds that both have are taken. Several seeds: a difference a seed.
    """
    if len(pairs) > 1:
        found = paired_t([_apart(entry, peer, metric, sign) for entry, peer in pairs])
        return found.estimate, found.low, found.high
    (entry, peer), = pairs  # fmt: skip
    ours, theirs = entry.logs(metric), peer.logs(metric)
    if ours is None and theirs is None:
        return 0.0, 0.0, 0.0
    rounds = min(len(logs) for logs in (ours, theirs) if logs is not None)
    zeros = [0.0] * rounds
    steps = [sign * (a - b) for a, b in zip((ours or zeros)[:rounds], (theirs or zeros)[:rounds], strict=True)]
    if not any(steps):
        return 0.0, 0.0, 0.0
    low, high = SequentialRule.for_looks(looks).interval(steps)
    return hodges_lehmann(steps), low, high


def gap_below(ratio: float, best: float, better: str) -> float:
    """Return by which share one gain stays below the best one.

    >>> round(gap_below(1.358, 1.4, "higher"), 3), round(gap_below(0.8, 0.7, "lower"), 3)
    (0.03, 0.125)
    """
    return 1.0 - (ratio / best if better == "higher" else best / ratio)


def fairness(entries: Sequence[Entry]) -> tuple[float, bool]:
    """Return the largest difference of times spent within a seed, and whether it is at most one trial of that seed."""
    widest, equal = 0.0, True
    for seed in {entry.seed for entry in entries}:
        group = [entry for entry in entries if entry.seed == seed]
        spent = [entry.spent_s for entry in group]
        differ = max(spent) - min(spent)
        widest = max(widest, differ)
        # Sums of the same seconds in another order differ in their last bits.
        equal &= differ <= max(entry.longest_s for entry in group) * (1 + 1e-9) + 1e-9
    return widest, equal


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
