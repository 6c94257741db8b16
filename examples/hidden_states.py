"""A hidden Markov model in ten lines: explained, simulated, fitted, judged."""

from __future__ import annotations

from mlsysopt.infer import Categorical, Dirichlet, Shape, array, model, observe


@model
def hmm(y, K: int, M: int):
    """K hidden states that emit M labels."""
    move = Dirichlet(0.5, K).rows(K)
    emit = Dirichlet(0.5, M).rows(K)
    z = array(int, len(y))
    z[0] = Categorical.uniform(K)
    for t in range(1, len(y)):
        z[t] = Categorical(move[z[t - 1]])
    for t in range(len(y)):
        observe(y[t], Categorical(emit[z[t]]))


def main() -> None:
    blank = hmm(Shape(400), K=2, M=3)
    blank.move.fix([[0.95, 0.05], [0.1, 0.9]])
    blank.emit.fix([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]])
    truth = blank.execute(seed=1)

    h = hmm(truth["y"], K=2, M=3)
    print(h.explain())
    h.z.retain = "summary"
    fit = h.infer(1000, chains=2, seed=1)
    print(fit.summary())
    wrong = abs(fit.moments("z").mean - truth["z"]).mean()
    print(f"states told from labels alone: {max(wrong, 1 - wrong):.0%} right, up to their names")


if __name__ == "__main__":
    main()
