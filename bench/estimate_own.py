"""Trainers that the library has never seen, declared in three lines each; and the same, declared wrongly."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from bench import estimating
from bench.estimating import Laboratory, Question
from bench.estimating_errors import WHITE, Errors, peers, spent
from bench.protocol import Bench
from mlsysopt.train.estimate.synthetic import TEST
from mlsysopt.train.estimate.trainers import TrainerRecord, trainer

MODULES = ("sklearn.decomposition", "sklearn.neighbors", "scipy.sparse")


def fit_truncated(data: Any, n_components: int = 32, n_iter: int = 20) -> Any:
    from sklearn.decomposition import TruncatedSVD

    return TruncatedSVD(n_components, n_iter=n_iter, n_oversamples=1, random_state=0).fit(data)


def fit_factors(data: Any, n_components: int = 16, max_iter: int = 100) -> Any:
    from sklearn.decomposition import NMF

    factors: Any = n_components
    return NMF(factors, init="random", max_iter=max_iter, tol=0.0, random_state=0).fit(data)


def find_neighbours(data: Any, k: int = 20) -> Any:
    from sklearn.neighbors import NearestNeighbors

    return (
        NearestNeighbors(n_neighbors=min(k, data.shape[0]), algorithm="brute", metric="cosine").fit(data).kneighbors()
    )


def declared() -> list[TrainerRecord]:
    """Return the three trainers as a user would declare them."""
    return [
        trainer("own.svd", fit=fit_truncated, data="csr", epochs="n_iter",
                time="n_iter*n_components*R + n_iter*n_components**2*(U+I) + n_components*(U+I) + R",
                memory="24*n_components*(U+I) + 12*R"),
        trainer("own.nmf", fit=fit_factors, data="csr", epochs="max_iter",
                time="max_iter*n_components*R + max_iter*n_components**2*(U+I) + max_iter*(U+I) + R",
                memory="16*n_components*(U+I) + 24*R"),
        trainer("own.neighbours", fit=find_neighbours, data="csr",
                time="Si + U**2 + R",
                memory="8*U**2 + 24*R"),
    ]  # fmt: skip


def wrongly() -> list[TrainerRecord]:
    """Return the same with terms that their loops do not have."""
    return [
        trainer("wrong.svd", fit=fit_truncated, data="csr", epochs="n_iter", time="R**2", memory="0"),
        trainer("wrong.nmf", fit=fit_factors, data="csr", epochs="max_iter", time="max_iter*R**2", memory="0"),
        trainer("wrong.neighbours", fit=find_neighbours, data="csr", time="U", memory="0"),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one set of 60,000 ratings")
    given = parser.parse_args(arguments)
    number = 60_000 if given.quick else estimating.SIZED_FOR
    bench = Bench(
        "estimate_own",
        "a declaration of three lines forecasts within 35 %, no worse than the best black box; a wrong one is flagged",
        peers(),
        f"scikit-learn's TruncatedSVD, NMF and brute-force kneighbors; {number:,} ratings of {1 if given.quick else 3} "
        "test shapes; the library's own ladder up to 36 %",
    )
    right = [Question(one.name, one, {}) for one in declared()]
    wrong = [Question(one.name, one, {}) for one in wrongly()]
    where = estimating.situations(TEST, number)
    with Laboratory(MODULES) as lab:
        found = estimating.outcomes(
            lab,
            where[:1] if given.quick else where,
            right,
            seeds=(1,) if given.quick else (1, 2),
            design=estimating.crossed,
        )
        told = estimating.outcomes(lab, where[:1], wrong, design=estimating.crossed, truths=1)
    if not found:
        return bench.missing("; ".join(lab.failures))
    errors = Errors.over(found)
    errors.show(bench)
    errors.by_trainer(bench)
    forecasts = [one.forecast() for one in told]
    bench.table(
        ["declared wrongly", "rolling error", "flagged", "truth s", "its terms say", "dictionary says"],
        [
            [
                *(one.question, f"{made.rolling_error:.2f}", made.flagged, f"{one.truth_s:.3g}"),
                *(f"{made.seconds:.3g}", f"{made.auto[1]:.3g}" if made.auto else "-"),
            ]
            for one, made in zip(told, forecasts, strict=True)
        ],
    )
    spent(bench, lab)
    best = errors.ratio("best")
    flagged = sum(made.flagged for made in forecasts)
    alarms = sum(one.forecast().flagged for one in found)
    bench.headline = f"MAPE {100 * errors.mape(WHITE):.0f} %, {flagged} of {len(told)} wrong declarations flagged"
    bench.bar("train-estimate.10a", errors.mape(WHITE), "<=", 0.35, about="MAPE of the right declarations")
    bench.bar("train-estimate.10b", best[0], "<=", 1.0, about=f"over the best black box ({errors.best_black_box()})")
    bench.bar("train-estimate.10c", flagged, ">=", len(wrong), about="wrong declarations flagged")
    bench.bar("train-estimate.10d", alarms / len(found), "<=", 0.34, must=False, about="right ones flagged")
    return bench.finish(write=not given.quick)


if __name__ == "__main__":
    raise SystemExit(main())
