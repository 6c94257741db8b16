"""The literal variant: one process over all metrics at once, tasks coupled by one matrix.

`K((x, i), (x', j)) = B_ij k(x, x')` with `B = W W' + diag(v)` of rank 2 and an ARD Matern-5/2 kernel:
the intrinsic coregionalisation model. O((n k)^3). Kept to compare with; `StructuredGPSampler` is faster
and knows which knob drives which metric.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mlsysopt.core.errors import MissingExtra
from mlsysopt.core.references import Reference
from mlsysopt.core.search.history import History
from mlsysopt.core.search.model import Model, Settings, fit, judged
from mlsysopt.core.search.structured import StructuredGPSampler
from mlsysopt.core.search.subgoals import correlation
from mlsysopt.core.search.surrogate import GP, matern52, squared_distances
from mlsysopt.core.search.threads import one_thread

__all__ = ["Coregionalised", "ICMSampler", "Tasks", "fit_tasks"]

Floats = NDArray[np.float64]

RANK = 2
ITERATIONS = 40
MOST_TASKS = 7
"""The objective and six metrics: the cost grows with the cube of their number."""


@dataclass(frozen=True, slots=True)
class Tasks:
    """Hyper-parameters of the coregionalised process, in standardised units.

    Attributes:
        coupling: B, shape (k, k).
        lengths: Length-scales, shape (d,).
        noise: Noise variance per task, shape (k,).
        mean: Constant mean per task, shape (k,).
    """

    coupling: Floats
    lengths: tuple[float, ...]
    noise: Floats
    mean: Floats


def fit_tasks(x: Floats, z: Floats, *, iterations: int = ITERATIONS) -> Tasks:
    """Fit hyper-parameters with BoTorch: `KroneckerMultiTaskGP` on complete blocks, else `MultiTaskGP`.

    Args:
        x: Inputs in the unit cube, shape (n, d).
        z: Standardised values, shape (n, k); NaN where a trial did not report a metric.
        iterations: Most L-BFGS iterations.

    References:
        Bonilla, Chai, Williams, Multi-task Gaussian Process Prediction, NeurIPS 2007.
        Maddox, Balandat, Wilson, Bakshy, Bayesian Optimization with High-Dimensional Outputs, NeurIPS 2021.

    Raises:
        MissingExtra: BoTorch is not installed.
    """
    try:
        with warnings.catch_warnings():
            # Its dependency linear_operator still uses torch.jit, which newer torch versions call deprecated.
            warnings.simplefilter("ignore", DeprecationWarning)
            import torch
            from botorch.exceptions.warnings import OptimizationWarning
            from botorch.models import KroneckerMultiTaskGP, MultiTaskGP
            from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior
            from botorch.optim.fit import fit_gpytorch_mll_scipy
            from gpytorch.mlls import ExactMarginalLogLikelihood
    except ImportError as error:
        raise MissingExtra.of("the coregionalised sampler", "tune") from error

    d, k = x.shape[1], z.shape[1]
    rank = min(RANK, k)
    kernel = get_covar_module_with_dim_scaled_prior(ard_num_dims=d, use_rbf_kernel=False)
    inputs = torch.as_tensor(x, dtype=torch.float64)
    complete = bool(np.isfinite(z).all())
    # The starting weights of B are drawn at random; a fixed seed makes the fit a function of the data.
    with one_thread(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(0)
        # Stopping at the iteration cap is meant; short-of-convergence fits are good enough to rank points.
        warnings.simplefilter("ignore", OptimizationWarning)
        # Said by torch of the sparse matrices inside linear_operator, once per process.
        warnings.filterwarnings("ignore", message="Sparse invariant checks", category=UserWarning)
        model: Any
        if complete:
            values = torch.as_tensor(z, dtype=torch.float64)
            model = KroneckerMultiTaskGP(inputs, values, data_covar_module=kernel, rank=rank)
        else:
            rows, tasks = np.nonzero(np.isfinite(z))
            stacked = torch.as_tensor(np.column_stack([x[rows], tasks]), dtype=torch.float64)
            values = torch.as_tensor(z[rows, tasks][:, None], dtype=torch.float64)
            model = MultiTaskGP(
                stacked, values, task_feature=-1, covar_module=kernel, rank=rank, outcome_transform=None
            )
        fit_gpytorch_mll_scipy(ExactMarginalLogLikelihood(model.likelihood, model), options={"maxiter": iterations})
    return _read_kronecker(model, k) if complete else _read_stacked(model, kernel, k)


def _array(tensor: Any) -> Floats:
    return np.asarray(tensor.detach().numpy(), dtype=np.float64)


def _read_kronecker(model: Any, k: int) -> Tasks:
    covariance = model.covar_module
    noise = _array(model.likelihood.task_noises).reshape(k) + float(model.likelihood.noise.detach())
    mean = np.array([float(part.constant.detach()) for part in model.mean_module.base_means])
    lengths = _array(covariance.data_covar_module.lengthscale).reshape(-1)
    coupling = _array(covariance.task_covar_module.covar_matrix.to_dense())
    return Tasks(coupling, tuple(lengths.tolist()), noise, mean)


def _read_stacked(model: Any, kernel: Any, k: int) -> Tasks:
    index = next(part for part in model.covar_module.modules() if hasattr(part, "covar_factor"))
    coupling = _array(index.covar_matrix.to_dense())
    noise = np.resize(_array(model.likelihood.noise).reshape(-1), k)
    means = getattr(model.mean_module, "base_means", None) or [model.mean_module] * k
    mean = np.array([float(part.constant.detach().reshape(-1)[0]) for part in means])
    lengths = _array(kernel.lengthscale).reshape(-1)
    return Tasks(coupling, tuple(lengths.tolist()), noise, mean)


@dataclass(frozen=True, slots=True)
class Coregionalised:
    """The posterior of task 0 under fixed hyper-parameters, exact.

    Attributes:
        tasks: Hyper-parameters.
        categorical: Which columns are categories.
        x: Inputs, shape (n, d).
        z: Standardised values, shape (n, k), NaN where missing.
        centre: Units of task 0.
        scale: Units of task 0.
    """

    tasks: Tasks
    categorical: NDArray[np.bool_]
    x: Floats
    z: Floats
    centre: float
    scale: float
    _rows: NDArray[np.intp]
    _kinds: NDArray[np.intp]
    _factor: Floats
    _alpha: Floats

    @classmethod
    def of(
        cls, tasks: Tasks, x: Floats, z: Floats, *, categorical: NDArray[np.bool_], centre: float, scale: float
    ) -> Coregionalised:
        """Condition the process on data."""
        from scipy.linalg import cho_solve

        rows, kinds = np.nonzero(np.isfinite(z))
        between, _ = matern52(squared_distances(x, x, categorical), tasks.lengths)
        covariance = tasks.coupling[np.ix_(kinds, kinds)] * between[np.ix_(rows, rows)]
        covariance[np.diag_indices(len(rows))] += tasks.noise[kinds] + 1e-8
        factor = np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
        alpha = np.asarray(cho_solve((factor, True), z[rows, kinds] - tasks.mean[kinds]))
        return cls(tasks, categorical, x, z, centre, scale, rows, kinds, factor, alpha)

    def posterior(self, x: Floats) -> tuple[Floats, Floats]:
        """Return mean and variance of the noise-free objective, each (m,)."""
        from scipy.linalg import solve_triangular

        between, _ = matern52(squared_distances(x, self.x, self.categorical), self.tasks.lengths)
        cross = between[:, self._rows] * self.tasks.coupling[0, self._kinds]
        white = solve_triangular(self._factor, cross.T, lower=True, check_finite=False)
        mean = self.tasks.mean[0] + cross @ self._alpha
        variance = np.maximum(self.tasks.coupling[0, 0] - np.einsum("ij,ij->j", white, white), 1e-10)
        return self.centre + self.scale * mean, self.scale**2 * variance

    def believe(self, x: Floats) -> Coregionalised:
        """Condition on points that are still measured, at the objective's posterior mean."""
        if not len(x):
            return self
        rows = np.full((len(x), self.z.shape[1]), np.nan)
        rows[:, 0] = (self.posterior(x)[0] - self.centre) / self.scale
        return Coregionalised.of(
            self.tasks,
            np.vstack([self.x, x]),
            np.vstack([self.z, rows]),
            categorical=self.categorical,
            centre=self.centre,
            scale=self.scale,
        )


@dataclass(frozen=True, slots=True)
class _Joint(Model):
    """A model whose objective comes from the joint process; guards as everywhere."""

    joint: Coregionalised | None = None

    def predict(self, x: Floats) -> tuple[Floats, Floats]:
        assert self.joint is not None
        return self.joint.posterior(x)

    def expect(self, x: Floats) -> _Joint:
        assert self.joint is not None
        guards: Mapping[str, GP] = {name: guard.believe(x) for name, guard in self.guards.items()}
        return replace(self, joint=self.joint.believe(x), guards=guards)


class ICMSampler(StructuredGPSampler):
    """Sampler on the intrinsic coregionalisation model: every metric is a task, task 0 the objective.

    Arguments as for `StructuredGPSampler`; `knowledge` only says which metrics are tasks (at most six,
    those that correlate most with the objective), not which knobs drive them.
    """

    references: ClassVar[list[Reference]] = [
        *StructuredGPSampler.references,
        Reference(
            "bonilla2007",
            "inproceedings",
            "Multi-task {Gaussian} Process Prediction",
            "E. V. Bonilla and K. M. A. Chai and C. K. I. Williams",
            2007,
            {"booktitle": "NeurIPS"},
        ),
    ]

    def _fit(self, history: History, settings: Settings) -> Model:
        plain = fit(history, (), replace(settings, decompose=False))
        known = {**history.partial, **history.metrics}
        names = [name for name in known if name in self._knowledge] if self._knowledge else list(known)
        if not names:
            return plain
        names.sort(key=lambda name: -_association(known[name], history.gain))
        x, columns = history.x, [history.gain, *(known[name] for name in names[: MOST_TASKS - 1])]
        late = history.failed[history.timeouts]
        if len(late):
            missing = np.full(len(late), np.nan)
            x = np.vstack([x, late])
            columns = [
                np.concatenate([column, np.full(len(late), history.gain.min()) if i == 0 else missing])
                for i, column in enumerate(columns)
            ]
        z = np.column_stack(columns)
        centre, scale = np.nanmean(z, axis=0), np.nanstd(z, axis=0)
        scale = np.where(scale > 1e-9, scale, 1.0)
        standard = (z - centre) / scale
        joint = Coregionalised.of(
            fit_tasks(x, standard),
            x,
            standard,
            categorical=settings.categorical,
            centre=float(centre[0]),
            scale=float(scale[0]),
        )
        return judged(_Joint((), (), None, plain.rest, plain.guards, None, joint=joint), history)


def _association(values: Floats, gain: Floats) -> float:
    there = np.isfinite(values)
    return abs(correlation(values[there], gain[there]))
