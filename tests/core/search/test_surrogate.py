"""The Gaussian process against finite differences, GPyTorch and itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsysopt.core.search.surrogate import GP, Hyper, evidence, matern52, squared_distances


def _data(n: int = 14, d: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.random((n, d))
    return x, np.sin(4 * x[:, 0]) + x[:, 1] ** 2 + 0.1 * rng.standard_normal(n), rng.random(n) * 0.02


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(3, 20))
@settings(deadline=None, max_examples=30)
def test_gradient_is_the_one_of_finite_differences(seed: int, d: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    x, y, noise = _data(n, max(2, d), seed)
    categorical = rng.random(x.shape[1]) < 0.3
    x[:, categorical] = np.round(x[:, categorical] * 2) / 2
    theta = 0.5 * rng.standard_normal(x.shape[1] + 3)
    distances = squared_distances(x, x, categorical)
    relevance = rng.exponential(size=x.shape[1]) if rng.random() < 0.5 else None
    _, gradient = evidence(theta, distances, y, noise, relevance=relevance)
    step = 1e-6
    for i, unit in enumerate(np.eye(len(theta))):
        up, _ = evidence(theta + step * unit, distances, y, noise, relevance=relevance)
        down, _ = evidence(theta - step * unit, distances, y, noise, relevance=relevance)
        assert (up - down) / (2 * step) == pytest.approx(gradient[i], rel=1e-4, abs=1e-5)


def test_what_is_thought_to_matter_is_a_hint_and_no_more() -> None:
    told = Hyper.prior_mode(3, np.array([2.0, 1.0, 0.0])).lengths
    plain = Hyper.prior_mode(3).lengths
    # An inverse squared length is proportional to the relevance, down to a tenth of the average.
    assert np.square(np.divide(plain, told)).tolist() == pytest.approx([2.0, 1.0, 0.1])
    x, y, noise = _data(n=40)
    hint = np.array([0.0, 0.0, 2.0, 2.0])
    misled = GP.fit(x, y, noise, columns=range(4), categorical=np.zeros(4, bool), relevance=hint)
    assert max(misled.hyper.lengths[:2]) < min(misled.hyper.lengths[2:])
    few = [GP.fit(x[:6], y[:6], noise[:6], columns=range(4), categorical=np.zeros(4, bool), relevance=h)
           for h in (hint, hint[::-1].copy())]  # fmt: skip
    assert few[0].hyper.lengths[0] > few[1].hyper.lengths[0]


def test_posterior_and_evidence_equal_gpytorch() -> None:
    """Same kernel, same priors, same data, same hyper-parameters: same numbers."""
    torch = pytest.importorskip("torch")
    gpytorch = pytest.importorskip("gpytorch")
    from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior

    x, y, noise = _data()
    hyper = Hyper(
        (0.3, 0.7, 2.0, 5.0), variance=1.4, floor=0.02, mean=0.2, centre=float(y.mean()), scale=float(y.std())
    )
    ours = GP.of(hyper, x, y, noise, columns=range(4), categorical=np.zeros(4, bool))

    standard = torch.as_tensor((y - hyper.centre) / hyper.scale)
    known = torch.as_tensor(noise / hyper.scale**2 + hyper.floor + 1e-8)
    likelihood = gpytorch.likelihoods.FixedNoiseGaussianLikelihood(noise=known)

    class Exact(gpytorch.models.ExactGP):
        def __init__(self) -> None:
            super().__init__(torch.as_tensor(x), standard, likelihood)
            self.mean_module = gpytorch.means.ConstantMean()
            base = get_covar_module_with_dim_scaled_prior(ard_num_dims=4, use_rbf_kernel=False)
            self.covar_module = gpytorch.kernels.ScaleKernel(base)

        def forward(self, at):  # type: ignore[no-untyped-def]
            return gpytorch.distributions.MultivariateNormal(self.mean_module(at), self.covar_module(at))

    model = Exact().double()
    model.mean_module.constant.data.fill_(hyper.mean)
    model.covar_module.outputscale = hyper.variance
    model.covar_module.base_kernel.lengthscale = torch.tensor(hyper.lengths, dtype=torch.float64)
    model.eval()
    at = np.random.default_rng(1).random((25, 4))
    with torch.no_grad(), gpytorch.settings.fast_computations(False, False, False):
        theirs = model(torch.as_tensor(at))
        mean, variance = theirs.mean.numpy(), theirs.variance.numpy()
    got_mean, got_variance = ours.posterior(at)
    np.testing.assert_allclose(got_mean, hyper.centre + hyper.scale * mean, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(got_variance, hyper.scale**2 * variance, rtol=1e-5, atol=1e-9)

    prior = model.covar_module.base_kernel.lengthscale_prior
    n = len(y)
    covariance = model.covar_module(torch.as_tensor(x)).to_dense().detach().numpy() + np.diag(known.numpy())
    centred = standard.numpy() - hyper.mean
    by_hand = 0.5 * centred @ np.linalg.solve(covariance, centred) + 0.5 * np.linalg.slogdet(covariance)[1]
    by_hand -= float(prior.log_prob(torch.tensor(hyper.lengths)).sum()) - 4 * _constant(prior)
    by_hand += 0.5 * (math.log(hyper.variance) / 0.5) ** 2 + 0.5 * hyper.mean**2
    by_hand += math.log(hyper.floor) + 0.5 * (math.log(hyper.floor) + 4.0) ** 2
    distances = squared_distances(x, x, np.zeros(4, bool))
    loss, _ = evidence(hyper.vector(), distances, standard.numpy(), noise / hyper.scale**2)
    assert n == 14
    assert loss == pytest.approx(by_hand, rel=1e-5)


def _constant(prior) -> float:  # type: ignore[no-untyped-def]
    """Return the part of a log-normal log density that no parameter changes."""
    return -math.log(float(prior.scale)) - 0.5 * math.log(2 * math.pi)


def test_leave_one_out_is_what_leaving_one_out_gives() -> None:
    x, y, noise = _data()
    gp = GP.fit(x, y, noise, columns=range(4), categorical=np.zeros(4, bool))
    mean, variance = gp.leave_one_out()
    for i in range(len(y)):
        rest = np.arange(len(y)) != i
        without = GP.of(gp.hyper, x[rest], y[rest], noise[rest], columns=range(4), categorical=np.zeros(4, bool))
        expected, spread = without.posterior(x[i : i + 1])
        observed = spread + noise[i] + gp.hyper.scale**2 * (gp.hyper.floor + 1e-8)
        assert mean[i] == pytest.approx(expected[0], rel=1e-6, abs=1e-8)
        assert variance[i] == pytest.approx(observed[0], rel=1e-6)


def test_growing_by_a_block_equals_starting_over() -> None:
    x, y, noise = _data(20)
    gp = GP.fit(x[:15], y[:15], noise[:15], columns=[0, 2], categorical=np.zeros(4, bool))
    grown = gp.condition(x[15:], y[15:], noise[15:])
    anew = GP.of(gp.hyper, x, y, noise, columns=[0, 2], categorical=np.zeros(4, bool))
    at = np.random.default_rng(2).random((9, 4))
    np.testing.assert_allclose(grown.posterior(at)[0], anew.posterior(at)[0], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(grown.posterior(at)[1], anew.posterior(at)[1], rtol=1e-6, atol=1e-10)


def test_believing_keeps_the_mean_and_shrinks_the_variance() -> None:
    x, y, noise = _data()
    gp = GP.fit(x, y, noise, columns=range(4), categorical=np.zeros(4, bool))
    pending = np.random.default_rng(3).random((2, 4))
    after = gp.believe(pending)
    at = np.random.default_rng(4).random((30, 4))
    np.testing.assert_allclose(after.posterior(at)[0], gp.posterior(at)[0], rtol=1e-6, atol=1e-6)
    assert (after.posterior(at)[1] <= gp.posterior(at)[1] + 1e-12).all()
    assert (after.posterior(pending)[1] < 0.9 * gp.posterior(pending)[1]).all()


def test_only_its_columns_matter() -> None:
    x, y, noise = _data()
    gp = GP.fit(x, y, noise, columns=[0, 1], categorical=np.zeros(4, bool))
    at = np.random.default_rng(5).random((6, 4))
    moved = at.copy()
    moved[:, 2:] = 0.123
    np.testing.assert_array_equal(gp.posterior(at)[0], gp.posterior(moved)[0])


def test_categories_are_equally_far_apart() -> None:
    x = np.array([[0.1], [0.5], [0.9]])
    distances = squared_distances(x, x, np.array([True]))
    np.testing.assert_array_equal(distances[0], 1 - np.eye(3))
    correlation, _ = matern52(distances, (0.7,))
    assert correlation[0, 1] == correlation[0, 2]


def test_relevant_columns_get_short_lengths() -> None:
    rng = np.random.default_rng(6)
    x = rng.random((30, 6))
    y = np.sin(6 * x[:, 2]) + 0.05 * rng.standard_normal(30)
    gp = GP.fit(x, y, np.full(30, 0.0025), columns=range(6), categorical=np.zeros(6, bool))
    assert int(np.argmin(gp.hyper.lengths)) == 2


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_or_constant_values_do_not_break_it(n: int) -> None:
    x = np.random.default_rng(7).random((n, 3))
    gp = GP.fit(x, np.full(n, 2.0), np.zeros(n), columns=range(3), categorical=np.zeros(3, bool))
    mean, variance = gp.posterior(x)
    assert np.isfinite(mean).all() and (variance > 0).all()
    assert mean == pytest.approx(np.full(n, 2.0), abs=1e-3)


def test_known_noise_is_trusted() -> None:
    """A noisy outlier pulls the mean less than an exact one."""
    x = np.linspace(0, 1, 9)[:, None]
    y = np.zeros(9)
    y[4] = 1.0
    exact = np.zeros(9)
    noisy = exact.copy()
    noisy[4] = 4.0
    hyper = Hyper((0.3,), floor=1e-3)
    at = np.array([[0.5]])
    pulled = GP.of(hyper, x, y, exact, columns=[0], categorical=np.array([False])).posterior(at)[0][0]
    kept = GP.of(hyper, x, y, noisy, columns=[0], categorical=np.array([False])).posterior(at)[0][0]
    assert pulled > 0.8
    assert kept < 0.2
