"""The coregionalised process against BoTorch's own posterior, on complete and on ragged data."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from mlsysopt.core.search.icm import Coregionalised, ICMSampler, fit_tasks
from mlsysopt.core.search.surrogate import matern52, squared_distances
from mlsysopt.core.space import Float, Space

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")


def _data(n: int = 12, d: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.random((n, d))
    z = np.column_stack([np.sin(4 * x[:, 0]), np.sin(4 * x[:, 0]) + 0.3 * x[:, 1], x[:, 1] ** 2])
    z += 0.05 * rng.standard_normal(z.shape)
    return x, (z - z.mean(axis=0)) / z.std(axis=0)


def _botorch():  # type: ignore[no-untyped-def]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from botorch.models import KroneckerMultiTaskGP
        from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior
    return KroneckerMultiTaskGP, get_covar_module_with_dim_scaled_prior


def test_posterior_equals_botorch() -> None:
    kronecker, kernel_of = _botorch()
    x, z = _data()
    tasks = fit_tasks(x, z, iterations=10)
    ours = Coregionalised.of(tasks, x, z, categorical=np.zeros(2, bool), centre=0.0, scale=1.0)
    kernel = kernel_of(ard_num_dims=2, use_rbf_kernel=False)
    model = kronecker(torch.as_tensor(x), torch.as_tensor(z), data_covar_module=kernel, rank=3).double()
    kernel.lengthscale = torch.tensor(tasks.lengths, dtype=torch.float64)
    # B is written as its own factor, with nothing left for the diagonal.
    values, vectors = np.linalg.eigh(tasks.coupling)
    index: Any = model.covar_module.task_covar_module
    index.covar_factor.data = torch.as_tensor(vectors * np.sqrt(np.maximum(values, 0)))
    index.raw_var.data.fill_(-60.0)
    means: Any = model.mean_module.base_means
    for i, part in enumerate(means):
        part.constant.data.fill_(tasks.mean[i])
    model.likelihood.noise = torch.tensor(1e-4, dtype=torch.float64)
    model.likelihood.task_noises = torch.as_tensor(tasks.noise - 1e-4)
    model.eval()
    at = np.random.default_rng(1).random((6, 2))
    with torch.no_grad():
        theirs = [float(model.posterior(torch.as_tensor(point[None])).mean[0, 0]) for point in at]
    np.testing.assert_allclose(ours.posterior(at)[0], theirs, atol=1e-5)


def test_variance_is_the_one_of_the_dense_formula() -> None:
    """BoTorch's own variance goes through an eigendecomposition that agrees to a few per cent only."""
    x, z = _data()
    tasks = fit_tasks(x, z, iterations=10)
    at = np.random.default_rng(1).random((5, 2))
    everywhere = np.vstack([x, at])
    no_categories = np.zeros(2, bool)
    k, _ = matern52(squared_distances(everywhere, everywhere, no_categories), tasks.lengths)
    joint = np.kron(tasks.coupling, k)
    n, m = len(x), len(everywhere)
    seen = np.concatenate([task * m + np.arange(n) for task in range(3)])
    new = n + np.arange(len(at))
    noisy = joint[np.ix_(seen, seen)] + np.diag(np.repeat(tasks.noise, n))
    cross = joint[np.ix_(new, seen)]
    expected = joint[new, new] - np.einsum("ij,ij->i", cross, np.linalg.solve(noisy, cross.T).T)
    ours = Coregionalised.of(tasks, x, z, categorical=no_categories, centre=0.0, scale=1.0)
    np.testing.assert_allclose(ours.posterior(at)[1], expected, rtol=1e-5)


def test_missing_values_go_through_the_ragged_model() -> None:
    x, z = _data()
    z[3:6, 2] = np.nan
    z[8, 1] = np.nan
    tasks = fit_tasks(x, z, iterations=10)
    gp = Coregionalised.of(tasks, x, z, categorical=np.zeros(2, bool), centre=0.0, scale=1.0)
    mean, variance = gp.posterior(x)
    assert np.corrcoef(mean, z[:, 0])[0, 1] > 0.95
    assert (variance > 0).all()


def test_another_task_informs_the_first() -> None:
    """Where only the other task was seen, the first one's variance shrinks."""
    x, z = _data()
    tasks = fit_tasks(x, z, iterations=20)
    half = z.copy()
    half[6:, 0] = np.nan
    alone = half.copy()
    alone[:, 1:] = np.nan
    settings: Any = {"categorical": np.zeros(2, bool), "centre": 0.0, "scale": 1.0}
    with_others = Coregionalised.of(tasks, x, half, **settings).posterior(x[6:])[1]
    without = Coregionalised.of(tasks, x, alone, **settings).posterior(x[6:])[1]
    assert (with_others < without).all()


def test_threads_and_random_state_of_the_caller_are_untouched() -> None:
    x, z = _data(8)
    before = torch.get_num_threads()
    state = torch.random.get_rng_state()
    fit_tasks(x, z, iterations=2)
    assert torch.get_num_threads() == before
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_sampler_uses_metrics_and_finds_the_optimum() -> None:
    import optuna

    space = Space([Float("a", 0.0, 1.0), Float("b", 0.0, 1.0)])
    study = optuna.create_study(direction="minimize", sampler=ICMSampler(space=space, seed=1))

    def objective(trial: optuna.Trial) -> float:
        a, b = trial.suggest_float("a", 0, 1), trial.suggest_float("b", 0, 1)
        parts = {"left": (a - 0.2) ** 2, "right": (b - 0.7) ** 2}
        trial.set_user_attr("metrics", parts)
        return sum(parts.values())

    study.optimize(objective, n_trials=12)
    assert study.best_value < 0.02
