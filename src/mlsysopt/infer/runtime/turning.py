"""Draws of a conditional that lie on the other side of its middle from where the state is: overrelaxation.

Where values are held by hidden ones that were drawn given them, a fresh draw stays close to the last one, and a chain
walks where it could stride. With w the present value on a scale on which it is nearly normal, m its conditional mean
and sd its spread, w' = m - turn (w - m) + sqrt(1 - turn^2) sd z leaves a normal as it is and has correlation -turn with
w; what is not normal about it is corrected by a Metropolis step, which is nearly never refused. A shape's gamma is
nearly normal in its cube root (Wilson and Hilferty).

How far to turn follows from how slow a value is: with c the part of its variance that its conditional mean holds to
from one sweep to the next, which is the lag-1 autocorrelation of fresh draws, turned draws leave c - turn (1 - c). None
is left at turn = c / (1 - c), and of what is slower the better part of the way is won.

References:
    Adler, Over-relaxation method for the Monte Carlo evaluation of the partition function, Physical Review D 23, 1981.
    Neal, Suppressing random walks in Markov chain Monte Carlo using ordered overrelaxation, 1998.
    Wilson and Hilferty, The distribution of chi-square, PNAS 17, 1931.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mlsysopt.infer.runtime.draws import dirichlet_draw, gamma_unit_draw, kept_positive

__all__ = ["adapt_turns", "turned_dirichlet_draw", "turned_gamma_draw"]

Floats = NDArray[np.float64]

LEAST_TURN, MOST_TURN = 0.1, 0.9
"""Below the first a fresh draw is as good and costs less; the second keeps some chance of its own in every step."""
LEAST_SEEN = 20.0
"""Sweeps before anything is turned."""
LEAST_TURNED = 1.5
"""Smallest shape whose gamma is turned: one of less mass in its middle than at 0 has nothing to turn about."""


def turned_dirichlet_draw(rng: np.random.Generator, out: Floats, alpha: Floats, turn: Floats) -> None:
    """Draw a row of Dirichlet(alpha) from the present one in `out`, each cell turned by its own share.

    The gammas behind a row are independent of it in their sum, which is drawn; each of them is then moved on its own.
    """
    total = 0.0
    turned = 0
    wrong = 0
    for k in range(alpha.shape[0]):
        wrong += not (alpha[k] > 0.0 and alpha[k] < math.inf)
        total += alpha[k]
        turned += alpha[k] >= LEAST_TURNED and turn[k] >= LEAST_TURN
    if wrong > 0 or turned == 0 or out.shape[0] != alpha.shape[0]:
        dirichlet_draw(rng, out, alpha)
        return
    scale = rng.standard_gamma(total)
    total = 0.0
    for k in range(alpha.shape[0]):
        if alpha[k] >= LEAST_TURNED and turn[k] >= LEAST_TURN:
            out[k] = turned_gamma_draw(rng, out[k] * scale, alpha[k], turn[k])
        else:
            out[k] = gamma_unit_draw(rng, alpha[k])
        total += out[k]
    for k in range(alpha.shape[0]):
        out[k] = kept_positive(out[k] / total)


def turned_gamma_draw(rng: np.random.Generator, x: float, shape: float, turn: float) -> float:
    """Return the state that follows x in a chain on Gamma(shape, 1)."""
    variance = 1.0 / (9.0 * shape)
    mean = 1.0 - variance
    log = math.log(x / shape) / 3.0
    w = math.exp(log)
    new = mean - turn * (w - mean) + math.sqrt((1.0 - turn * turn) * variance) * rng.standard_normal()
    if not new > 0.0:
        return x
    cube = new * new * new
    # The density of w is w^(3 shape - 1) exp(-shape w^3); that of the proposals leaves a normal as it is.
    accept = (3.0 * shape - 1.0) * (math.log(new) - log) - (shape * cube - x)
    accept += ((new - mean) * (new - mean) - (w - mean) * (w - mean)) / (2.0 * variance)
    if accept >= 0.0 or rng.random() < math.exp(accept):
        return shape * cube
    return x


def adapt_turns(
    x: Floats, alpha: Floats, turn: Floats, seen: Floats, mean: Floats, square: Floats, product: Floats
) -> None:
    """Before a row is drawn: see how far its conditional mean follows its present state, and turn by that.

    Unlike the autocorrelation of states, this does not change with how far they are turned.

    Args:
        x: The present row, (n,).
        alpha: Shapes of its conditional, (n,).
        turn: How far each cell is turned, (n,); changed, as are all that follow.
        seen: Sweeps so far, (n,). What is older than half of them hardly counts.
        mean: Means of states, (n,).
        square: Their variances, (n,).
        product: Covariances of states and the conditional means that followed, (n,).
    """
    total = 0.0
    for k in range(alpha.shape[0]):
        total += alpha[k]
    for k in range(alpha.shape[0]):
        seen[k] += 1.0
        rate = 2.0 / (seen[k] + 1.0)
        mean[k] += rate * (x[k] - mean[k])
        away = x[k] - mean[k]
        square[k] += rate * (away * away - square[k])
        product[k] += rate * (away * (alpha[k] / total - mean[k]) - product[k])
        if seen[k] >= LEAST_SEEN and square[k] > 0.0:
            slow = max(product[k] / square[k], 0.0)
            turn[k] = min(slow / max(1.0 - slow, 0.1), MOST_TURN)
