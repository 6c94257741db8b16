"""Sampling a constrained space: ten thousand valid configurations, against Optuna's random sampler and ConfigSpace."""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.protocol import Bench
from mlsysopt.core.errors import UsageError
from mlsysopt.core.space import Bool, Choice, Expression, Float, Int, Space

MiB = 1024**2
SAMPLES = 10_000
ROUNDS = 7
MALICIOUS = (
    "__import__('os').system('true') == 0",
    "a.__class__.__mro__[1].__subclasses__()",
    "(lambda: 1)()",
    "[x for x in ().__class__.__bases__]",
    "open('/etc/passwd').read() == ''",
    "9**9**9**9 > a",
    "f'{a.__class__}' == ''",
    "(a := 5) > 3",
)


def storage_space() -> Space:
    """Twelve knobs of a storage engine under an order of triggers and a memory budget."""
    return Space(
        [
            Int("cache_size", MiB, 1024 * MiB, log=True, default=8 * MiB, unit="B"),
            Int("write_buffer_size", MiB, 256 * MiB, log=True, default=64 * MiB, unit="B"),
            Int("max_write_buffers", 1, 32, log=True, default=2),
            Int("trigger", 1, 64, log=True, default=4),
            Int("slowdown", 1, 256, log=True, default=20),
            Int("stop", 1, 256, log=True, default=36),
            Int("block_size", 512, 512 * 1024, log=True, default=4096, unit="B"),
            Int("multiplier", 5, 15, default=10),
            Choice("compression", ("none", "snappy", "lz4", "zstd"), default="snappy"),
            Int("bloom_bits", 0, 20, default=0),
            Bool("pin_filters"),
            Float("bloom_ratio", 0.0, 0.25, default=0.0),
        ],
        constraints=[
            "trigger <= slowdown <= stop",
            "cache_size + write_buffer_size * max(2, max_write_buffers) <= 256MiB",
        ],
    )


def simple_space() -> Space:
    """The same knobs with the one rule that ConfigSpace can express as well."""
    return Space(storage_space().parameters, constraints=["trigger <= slowdown <= stop"])


def cpu_seconds(action: Callable[[], Any]) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    seed = parser.parse_args().seed
    import optuna

    peers = [f"optuna {optuna.__version__} RandomSampler"]
    try:
        import ConfigSpace

        peers.append(f"ConfigSpace {ConfigSpace.__version__}")
        there: Any = simple_space().to_configspace()
    except ImportError:
        there = None
    bench = Bench(
        "core_space",
        f"{SAMPLES:,} valid samples of 12 parameters under two arithmetic constraints take less than a second",
        ", ".join(peers),
        f"CPU seconds, {ROUNDS} rounds interleaved, one thread; Optuna's rejection is timed on 200 trials and scaled",
    )
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space, simple = storage_space(), simple_space()
    ours, plain, peer, optunas, sobols = [], [], [], [], []
    for number in range(ROUNDS):
        rng = np.random.default_rng(seed + number)
        ours.append(cpu_seconds(lambda rng=rng: space.sample(rng, SAMPLES)))
        plain.append(cpu_seconds(lambda rng=rng: simple.sample(rng, SAMPLES)))
        sobols.append(cpu_seconds(lambda number=number: space.sobol(1024, seed + number)))
        optunas.append(cpu_seconds(lambda number=number: reject_with_optuna(space, 200, seed + number)) * SAMPLES / 200)
        if there is not None:
            there.seed(seed + number)
            peer.append(cpu_seconds(lambda: there.sample_configuration(SAMPLES)))
        bench.round(
            ours_s=ours[-1], one_rule_s=plain[-1], optuna_s=optunas[-1], configspace_s=peer[-1] if peer else None,
            sobol_1024_s=sobols[-1],
        )  # fmt: skip
    rows = space.sample(np.random.default_rng(seed), SAMPLES)
    wrong = sum(bool(space.violations(row)) for row in rows)
    repaired, repair_s, far = repair_all(space, seed)
    header = ("what", "median CPU-s", "of us")
    mine = statistics.median(ours)
    table: list[tuple[str, str, str]] = [(f"sample {SAMPLES:,}, two constraints", f"{mine:.3f}", "1.0x")]
    table.append(
        (
            "the same by rejection with Optuna",
            f"{statistics.median(optunas):.2f}",
            f"{statistics.median(optunas) / mine:.0f}x",
        )
    )
    table.append((f"sample {SAMPLES:,}, one rule", f"{statistics.median(plain):.3f}", ""))
    if peer:
        factor = statistics.median(peer) / statistics.median(plain)
        table.append(("the same with ConfigSpace", f"{statistics.median(peer):.3f}", f"{factor:.1f}x of one rule"))
    table.append(("1,024 valid Sobol points", f"{statistics.median(sobols):.3f}", ""))
    table.append(("repair of one invalid point", f"{repair_s:.5f}", ""))
    bench.table(header, table)
    bench.headline = f"{SAMPLES:,} valid samples in {mine:.3f} CPU-s; one repair {repair_s * 1e3:.1f} ms"
    bench.bar("core.2a", max(ours), "<", 1.0, about=f"CPU-s for {SAMPLES:,} samples, worst of {ROUNDS} rounds")
    bench.bar("core.2b", wrong, "==", 0, about="samples with a violation")
    bench.bar("core.2c", repaired, "==", 0, about="of 500 repaired points: invalid, or changed by a second repair")
    bench.bar("core.2d", far, "<=", 1.0, about="median distance of repair over nearest of 10,000 random valid points")
    bench.bar("core.2e", int(Space.from_json(space.to_json()) != space), "==", 0, about="JSON round trip differs")
    bench.bar("core.2f", sum(not refused(text) for text in MALICIOUS), "==", 0, about="malicious expressions accepted")
    return bench.finish()


def reject_with_optuna(space: Space, count: int, seed: int) -> None:
    """Ask Optuna's random sampler until `count` proposals are valid, without any storage."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler = optuna.samplers.RandomSampler(seed=seed)
        study = optuna.create_study(sampler=sampler)
    trial = optuna.trial.create_trial(value=0.0)
    distributions = space.distributions()
    found = 0
    while found < count:
        params = {name: sampler.sample_independent(study, trial, name, one) for name, one in distributions.items()}
        found += not space.violations(space.from_params(params))


def repair_all(space: Space, seed: int) -> tuple[int, float, float]:
    """Return how many of 500 repairs went wrong, CPU seconds of one, and how near they are."""
    rng = np.random.default_rng(seed)
    asked = [space.decode(u) for u in rng.random((800, space.dims()))]
    asked = [config for config in asked if space.violations(config)][:500]
    found: list[dict[str, Any]] = []
    seconds = cpu_seconds(lambda: found.extend(space.repair(config) for config in asked))
    wrong = sum(bool(space.violations(one)) or space.repair(one) != one for one in found)
    # Only the tied columns count: in the others a random cloud is far away by chance alone.
    tied = [i for i, name in enumerate(space.column_names()) if any(name in group for group in space.tied)]
    cloud = space.encode_many(space.sample(rng, SAMPLES))[:, tied]
    u, v = space.encode_many(asked)[:, tied], space.encode_many(found)[:, tied]
    nearest = np.array([np.linalg.norm(cloud - row, axis=1).min() for row in u])
    return wrong, seconds / len(asked), float(np.median(np.linalg.norm(v - u, axis=1) / nearest))


def refused(text: str) -> bool:
    try:
        Expression.parse(text)
    except UsageError:
        return True
    return False


if __name__ == "__main__":
    raise SystemExit(main())
