"""What `mlsysopt tune show` prints: a target's knobs, or a study's trials."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mlsysopt.cli.documents import Document, table
from mlsysopt.core.space import Choice, Float, Int, Permutation
from mlsysopt.core.space.shown import shown
from mlsysopt.core.study import stored_result
from mlsysopt.core.study.trials import counts, views

if TYPE_CHECKING:
    from mlsysopt.core.space import Parameter
    from mlsysopt.core.store import Store, StudyInfo
    from mlsysopt.core.target import Target

__all__ = ["describe_study", "describe_target"]


def describe_target(target: Target) -> Document:
    """Describe knobs with bounds and origins, constraints, metrics and guards."""
    space = target.space()
    knobs = [[p.name, _range(p), shown(p, p.default), _origin(p), p.about] for p in space]
    metrics = [[name, m.unit or "-", m.better, m.kind, m.about] for name, m in target.metrics().items()]
    parts = [
        f"{target.name}: "
        + ", ".join(f"{key} {value}" for key, value in target.fingerprint().items() if not isinstance(value, dict)),
        *([f"  {about}"] if (about := getattr(target, "about", "")) else []),
        "\nknobs\n" + table(["name", "range", "default", "origin", "what it is"], knobs),
        "\nconstraints\n" + "\n".join(f"  {expression.text}" for expression in space.constraints or ()),
        "\nmetrics\n" + table(["name", "unit", "better", "kind", "what it is"], metrics),
        "\nguards\n" + "\n".join(f"  {metric} {limit}" for metric, limit in target.guards.items()),
    ]
    data = {
        "target": target.name,
        "fingerprint": target.fingerprint(),
        "space": space.to_json(),
        "metrics": {name: {"unit": m.unit, "better": m.better, "kind": m.kind} for name, m in target.metrics().items()},
        "guards": target.guards,
    }
    return Document("\n".join(parts), data)


def describe_study(store: Store, info: StudyInfo) -> Document:
    """Describe a study: identity, trials by state, every trial, and the last result."""
    import optuna

    study = optuna.load_study(study_name=info.name, storage=store.optuna)
    trials = views(study.get_trials(deepcopy=False))
    result = stored_result(store, info)
    better = str(info.identity["objectives"][0]).split()
    sign = 1.0 if better[0] == "higher" else -1.0
    rows = [
        [
            trial.number,
            trial.state,
            f"{math.exp(sign * trial.gains[0]):.2f}x" if trial.gains else "-",
            trial.rounds or "-",
            ", ".join(name for name, excess in trial.constraints.items() if excess > 0) or "-",
            trial.reason or ", ".join(f"{knob}={value}" for knob, value in trial.config.items()),
        ]
        for trial in trials
    ]
    tally = ", ".join(f"{count} {state}" for state, count in counts(trials).items())
    parts = [
        f"study {info.name} in {store.url}: {info.target}, {' and '.join(info.identity['objectives'])}",
        f"trials: {tally or 'none'}",
        "\n" + table(["trial", "state", better[-1], "rounds", "guards broken", "configuration or reason"], rows),
        "\nresult\n" + (result.text() if result is not None else "none yet"),
    ]
    data = {
        "study": info.name,
        "identity": info.identity,
        "counts": counts(trials),
        "trials": [
            {
                "number": trial.number, "state": trial.state, "config": dict(trial.config), "gains": list(trial.gains),
                "metrics": dict(trial.metrics), "constraints": dict(trial.constraints), "rounds": trial.rounds,
                "reason": trial.reason,
            }
            for trial in trials
        ],
        "result": result.to_json() if result is not None else None,
    }  # fmt: skip
    return Document("\n".join(parts), data)


def _range(parameter: Parameter) -> str:
    if isinstance(parameter, Int | Float):
        ends = f"{shown(parameter, parameter.low)} .. {shown(parameter, parameter.high)}"
        special = "".join(f" or {value}" for value in parameter.special)
        return ends + (" log" if parameter.log else "") + special
    if isinstance(parameter, Choice):
        return " | ".join(str(choice) for choice in parameter.choices)
    return f"an order of {parameter.n}" if isinstance(parameter, Permutation) else "true | false"


def _origin(parameter: Parameter) -> str:
    low, high = getattr(parameter, "low_origin", "declared"), getattr(parameter, "high_origin", "declared")
    return low if low == high else f"{low}, {high}"
