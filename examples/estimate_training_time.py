"""How long will this training take? Ask before it starts, then watch the forecast sharpen while it runs."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from typing import Any

import numpy as np

from mlsysopt.train import estimate
from mlsysopt.train.estimate.track import Left


def smooth(data: Any, n_epochs: int = 200) -> np.ndarray:
    """Spread popularity over the users again and again: a trainer of one's own."""
    matrix = data.csr()
    weights = np.ones(matrix.shape[1])
    for _ in range(n_epochs):
        weights = matrix.T @ (matrix @ weights)
        weights /= weights.max()
    return weights


def main() -> None:
    ratings = estimate.synthetic.ratings(
        "lognormal", "zipf0.7", n_users=4000, n_items=1500, n_ratings=100_000, order="shuffled", seed=1
    )
    found = estimate.run(ratings, "svd", {"n_factors": 50, "n_epochs": 30}, budget="3s", always=True)
    print(found)
    print("with 100 factors and 60 epochs:", found.at(n_factors=100, n_epochs=60), sep="\n")

    said: list[Left] = []
    from surprise import SVD

    with redirect_stdout(io.StringIO()), found.track(on_left=said.append, remember=False) as eta:
        SVD(n_factors=50, n_epochs=30, verbose=True).fit(ratings.trainset())
    for left in said[:: len(said) // 4]:
        print(f"{left.done:4.0%} done, {left.seconds:5.2f} s left [{left.low:.2f}, {left.high:.2f}], by {left.basis}")
    print(f"it took {eta.finished_s:.2f} s")

    mine = estimate.trainer("my.smooth", fit=smooth, time="n_epochs*R + n_epochs*(U+I)", memory="24*(U+I)")
    print(estimate.run(ratings, mine, {"n_epochs": 5000}, budget="5s"))
    print(estimate.run(ratings, mine, {"n_epochs": 20}, budget="10s"))


if __name__ == "__main__":
    main()
