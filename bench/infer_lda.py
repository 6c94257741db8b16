"""Topics of documents: `python -m bench.infer_lda`. Bars infer.3a (JAGS), infer.3b and 3c (tomotopy).

Tokens per CPU second, not effective draws: tomotopy integrates the rows out and ours draws them, so draws of the two
are not of one kind. Equal in kind is the predictive log likelihood per token, every second
token held out.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
from collections.abc import Sequence
from typing import Any

from bench.infer_duel import stopwatch
from bench.infer_jags import jags, present
from bench.infer_models import lda, lda_data
from bench.protocol import Bench

import numpy as np  # isort: skip

JAGS = """model {
  for (d in 1:D) { theta[d, 1:K] ~ ddirch(a[1:K]) }
  for (k in 1:K) { phi[k, 1:V] ~ ddirch(b[1:V]) }
  for (i in 1:N) {
    z[i] ~ dcat(theta[doc[i], 1:K])
    w[i] ~ dcat(phi[z[i], 1:V])
  }
}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.infer_lda", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args(arguments)
    bench = Bench(
        "infer_lda",
        "a general compiler keeps up with a dedicated topic model in C++",
        "JAGS 4.3; tomotopy, one worker",
        f"K=10, V=500, documents of 100 tokens, {options.rounds} interleaved rounds, tokens per CPU-s",
    )
    if not present():
        return bench.missing("jags")
    if importlib.util.find_spec("tomotopy") is None:
        return bench.missing("tomotopy")
    from mlsysopt.core.measure.ratio import log_ratios
    from mlsysopt.core.stats import signed_rank_interval

    small, large = lda_data(1, tokens=2000), lda_data(2, tokens=20_000)
    rates: dict[str, list[float]] = {"small": [], "jags": [], "large": [], "tomotopy": []}
    _ours(small, 10, 0)
    _ours(large, 10, 0)
    fits: dict[str, list[float]] = {"ours": [], "tomotopy": []}
    for number in range(options.rounds):
        rates["small"].append(_ours(small, 2000, number)[0])
        rates["jags"].append(_jags(small, 150, number))
        for side in ("large", "tomotopy") if number % 2 == 0 else ("tomotopy", "large"):
            rate, phi = _ours(large, 500, number) if side == "large" else _tomotopy(large, 500, number)
            rates[side].append(rate)
            if number < 2:
                fits["ours" if side == "large" else side].append(_predictive(phi, large))
        bench.round(number=number, **{name: one[-1] for name, one in rates.items()})
        print({name: f"{one[-1]:.3g}" for name, one in rates.items()}, flush=True)
    lows: dict[str, float] = {}
    rows: list[list[object]] = []
    for name, mine, theirs in (
        ("2,000 tokens, JAGS", "small", "jags"),
        ("20,000 tokens, tomotopy", "large", "tomotopy"),
    ):
        logs = log_ratios(rates[theirs], rates[mine], metric="tokens per CPU second")
        low, high = signed_rank_interval(logs) if options.rounds >= 6 else (float(logs.min()), float(logs.max()))
        lows[mine] = math.exp(low)
        rows.append(
            [
                name,
                f"{np.median(rates[mine]):.3g}",
                f"{np.median(rates[theirs]):.3g}",
                f"{math.exp(float(np.median(logs))):.2f}x [{math.exp(low):.2f}, {math.exp(high):.2f}]",
            ]
        )
    bench.table(["", "ours, tokens/s", "peer, tokens/s", "ratio"], rows)
    truth = _predictive(large["phi"], large)
    gap = float(np.mean(fits["ours"]) - np.mean(fits["tomotopy"]))
    print(
        f"predictive log likelihood per token: ours {np.mean(fits['ours']):.3f}, "
        f"tomotopy {np.mean(fits['tomotopy']):.3f}, truth {truth:.3f}"
    )
    bench.bar("infer.3a", lows["small"], ">=", 100.0, about="lower end, 2,000 tokens against JAGS")
    bench.bar("infer.3b", lows["large"], ">=", 0.5, about="lower end, 20,000 tokens against tomotopy")
    bench.bar(
        "infer.3c", abs(gap), "<=", 0.05, about="predictive log likelihood per token, apart from tomotopy's", must=False
    )
    bench.bar("infer.s3", lows["large"], ">=", 1.0, must=False, about="level with tomotopy")
    bench.headline = f"at least {lows['small']:.0f}x JAGS and {lows['large']:.2f}x tomotopy in tokens per CPU-s"
    return bench.finish()


def _ours(data: dict[str, Any], sweeps: int, seed: int) -> tuple[float, Any]:
    compiled = lda(w=data["w"], K=data["K"], V=data["V"])
    for name in ("z", "theta"):
        compiled[name].retain = "none"
    compiled.phi.retain = "samples"
    # One kept state in fifty: the log joint of a state costs as much as a sweep, and tomotopy computes none.
    draws = max(1, sweeps // 50)
    fit = compiled.infer(draws, warmup=0, thin=sweeps // draws, chains=1, seed=seed, start="prior")
    tokens = sum(map(len, data["w"]))
    return tokens * sweeps / sum(one.kept_s for one in fit.chains), fit["phi"][0, len(fit["phi"][0]) // 2 :].mean(
        axis=0
    )


def _jags(data: dict[str, Any], sweeps: int, seed: int) -> float:
    w = np.concatenate(data["w"])
    doc = np.concatenate([np.full(len(one), d) for d, one in enumerate(data["w"])])
    given = {
        "w": w + 1,
        "doc": doc + 1,
        "D": len(data["w"]),
        "K": data["K"],
        "V": data["V"],
        "N": len(w),
        "a": np.full(data["K"], 0.1),
        "b": np.full(data["V"], 0.05),
    }
    run = jags(JAGS, given, ["phi[1,1]"], draws=sweeps, warmup=5, seed=seed, chains=1)
    return len(w) * sweeps / run.sampling_s


def _tomotopy(data: dict[str, Any], sweeps: int, seed: int) -> tuple[float, Any]:
    import tomotopy

    model = tomotopy.LDAModel(k=data["K"], alpha=0.1, eta=0.05, seed=seed + 1)
    model.optim_interval = 0
    for one in data["w"]:
        model.add_doc([str(token) for token in one])
    model.train(0, workers=1)
    watch = stopwatch()
    model.train(sweeps, workers=1)
    spent = watch()
    phi = np.full((data["K"], data["V"]), 1e-12)
    names = [int(one) for one in model.used_vocabs]
    for k in range(data["K"]):
        phi[k, names] = model.get_topic_word_dist(k)
    return sum(map(len, data["w"])) * sweeps / spent, phi / phi.sum(axis=1, keepdims=True)


def _predictive(phi: Any, data: dict[str, Any]) -> float:
    """Return the log likelihood per token of every second token, the topics fitted to the others."""
    total, count = 0.0, 0
    for doc in data["w"]:
        first, second = doc[::2], doc[1::2]
        theta = np.full(len(phi), 1.0 / len(phi))
        for _ in range(100):
            share = theta[:, None] * phi[:, first]
            theta = 0.1 + (share / share.sum(axis=0)).sum(axis=1)
            theta /= theta.sum()
        total += float(np.log(theta @ phi[:, second]).sum())
        count += len(second)
    return total / count


if __name__ == "__main__":
    raise SystemExit(main())
