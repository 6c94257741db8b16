"""A hidden Markov model in ten lines: explained, simulated, fitted, judged."""

from __future__ import annotations

from mlsysopt.infer import Categorical, Dirichlet, Gamma, Normal, Shape, array, model, observe


@model
def regimes(y, K: int):
    """K hidden regimes of a measurement; ascending means keep their names apart."""
    move = Dirichlet(1.0, K).rows(K)
    mu = Normal(0.0, 10.0).rows(K).ordered()
    precision = Gamma(2.0, 2.0)
    z = array(int, len(y))
    z[0] = Categorical.uniform(K)
    for t in range(1, len(y)):
        z[t] = Categorical(move[z[t - 1]])
    for t in range(len(y)):
        observe(y[t], Normal(mu[z[t]], precision=precision))


def main() -> None:
    blank = regimes(Shape(400), K=2)
    blank.move.fix([[0.95, 0.05], [0.1, 0.9]])
    blank.mu.fix([1.0, 3.0])
    truth = blank.execute(seed=1)

    h = regimes(truth["y"], K=2)
    print(h.explain())
    h.z.retain = "summary"
    fit = h.infer(1000, chains=2, seed=1)
    print(fit.summary())
    told = (fit.moments("z").mean > 0.5) == truth["z"]
    print(f"regimes told right at {told.mean():.0%} of the times")


if __name__ == "__main__":
    main()
