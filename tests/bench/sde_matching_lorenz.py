"""What a latent SDE learned of the stochastic Lorenz attractor, and what the equation itself says."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import wasserstein_distance

import nde
from nde.data import make_stochastic_lorenz
from nde.data.datasets.stochastic_lorenz import lorenz_drift, SPREAD

NOISE = 0.01


class Simulated(eqx.Module):
    """A model whose posterior is solved from the first row on, by steps of another size."""

    model: nde.LatentSDE

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, "simulated_posterior" if name == "posterior" else name)


def truth(rows: int, span: float, series: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Paths without observation noise, standardised, with the location and the scale of the coordinates."""
    plain = make_stochastic_lorenz(series=series, seed=seed, span=span, rows=rows, noise=0.0)
    # A start is standard normal before it is standardised, up to the mean and the spread of so many draws.
    scale = 1 / plain.values[:, 0].std(0)
    return plain.values, -scale * plain.values[:, 0].mean(0), scale


def likelihood_by_ekf(values: Any, substeps: int = 40) -> float:
    """Mean log-likelihood of standardised series under the true equation, by an extended Kalman filter."""
    _, location, scale = truth(41, 1.0, 1280, 0)
    x = np.asarray(values, np.float64) * scale + location
    mean, spread = np.zeros((len(x), 3)), np.tile(np.eye(3), (len(x), 1, 1))
    noise, total = np.diag((NOISE * scale) ** 2), np.zeros(len(x))
    for row in range(x.shape[1]):
        for _ in range(substeps if row else 0):
            step = 0.025 / substeps
            a, b, c = mean.T
            zero, one = np.zeros_like(a), np.ones_like(a)
            slope = np.array([[-10 * one, 10 * one, zero], [28 - c, -one, -a], [b, a, -8 / 3 * one]])
            move = np.eye(3) + step * np.moveaxis(slope, -1, 0)
            second = mean**2 + np.einsum("sii->si", spread)
            spread = move @ spread @ np.swapaxes(move, 1, 2) + step * SPREAD**2 * second[:, None] * np.eye(3)
            mean = mean + step * lorenz_drift(mean)
        whole = spread + noise
        miss = x[:, row] - mean
        total -= 0.5 * (np.einsum("si,si->s", miss, np.linalg.solve(whole, miss[..., None])[..., 0]))
        total -= 0.5 * np.linalg.slogdet(2 * np.pi * whole)[1] - np.log(scale).sum()
        gain = spread @ np.linalg.inv(whole)
        mean = mean + np.einsum("sij,sj->si", gain, miss)
        spread = spread - gain @ spread
    return round(float(total.mean()), 2)


def report_on(model: nde.LatentSDE, test: tuple[Any, ...]) -> dict[str, Any]:
    """Bounds on series that were not seen, the diffusion, the coverage of forecasts and the law at later times."""
    result: dict[str, Any] = {"noise": np.round(np.asarray(model.likelihood.scale), 4).tolist()}
    result["bound"] = {"simulated": mean_terms(nde.ELBO(samples=4), Simulated(model), test)}
    if model.marginals is not None:
        result["bound"]["matching"] = mean_terms(nde.SDEMatching(samples=16), model, test)
        few = tuple(x[:64] for x in test)
        finer = with_steps(model, 4000)
        result["bound_of_64_series"] = {
            "matching": mean_terms(nde.SDEMatching(samples=256), model, few),
            "simulated, 100 steps a gap": mean_terms(nde.ELBO(samples=4), Simulated(finer), few),
        }
    result["their_loss"] = their_loss(result["bound"].get("matching") or result["bound"]["simulated"], test)
    result["diffusion_of_the_truth"] = diffusion(model, test)
    result["coverage_of_90"] = coverage(model, test)
    result["law"] = {f"{times} x": law(model, times) for times in (1, 2, 5)}
    return result


def with_steps(model: nde.LatentSDE, steps: int, times: int = 1) -> nde.LatentSDE:
    """The same model solved by other steps, and further."""
    like = nde.LatentSDE(
        3,
        4,
        posterior="control" if model.marginals is None else "marginals",
        likelihood=model.likelihood,
        horizon=10.0 * times,
        dt0=10.0 * times / steps,
        width=model.drift.network.layers[0].out_features,
        key=jax.random.key(0),
    )
    parts = ("encoder", "initial", "initial_mean", "initial_log_std", "drift", "control", "marginals", "diffusion")
    for name in (*parts, "decoder"):
        like = eqx.tree_at(lambda m, n=name: getattr(m, n), like, getattr(model, name), is_leaf=lambda x: x is None)
    return like


@eqx.filter_jit
def _terms(bound, model, data, key):
    keys = jax.random.split(key, len(data[0]))
    return jax.vmap(lambda t, x, m, key: bound(model, t, x, m, m, key=key))(*data, keys)


def mean_terms(bound: Any, model: Any, data: tuple[Any, ...]) -> dict[str, float]:
    """The bound and its parts, means over the series, and the bound's standard error."""
    found = _terms(bound, model, data, jax.random.key(7))
    each = np.asarray(-found.loss())
    parts = {name: float(jnp.mean(getattr(found, name))) for name in ("log_likelihood", "kl_path", "kl_initial")}
    parts |= {"bound": float(each.mean()), "error": float(each.std() / len(each) ** 0.5)}
    return {name: round(value, 2) for name, value in parts.items()}


def their_loss(parts: dict[str, float], data: tuple[Any, ...]) -> float:
    """What the public notebook prints: both divergences, and the reconstruction of one row of a series."""
    return round(parts["kl_path"] + parts["kl_initial"] - parts["log_likelihood"] / data[0].shape[1], 2)


def diffusion(model: nde.LatentSDE, test: tuple[Any, ...]) -> list[float]:
    """Root mean square of each coordinate's diffusion at the states of the test series, over the truth's."""
    path = jax.vmap(lambda t, x, m, key: model.posterior(t, x, m, t, key=key).zs)
    zs = eqx.filter_jit(path)(*test, jax.random.split(jax.random.key(3), len(test[0]))).reshape(-1, 4)
    sigma = jax.vmap(lambda z: model.diffusion(0.0, z))(zs)
    squares = np.asarray(sigma**2) @ np.asarray(model.decoder.weight).T ** 2
    _, location, scale = truth(41, 1.0, 1280, 0)
    raw = np.asarray(test[1]).reshape(-1, 3) * scale + location
    wanted = (SPREAD * raw / scale) ** 2 / 10  # in the unit of time of which a series is ten long
    return np.round(np.sqrt(squares.mean(0) / wanted.mean(0)), 3).tolist()


def coverage(model: nde.LatentSDE, test: tuple[Any, ...], samples: int = 60) -> float:
    """Share of the second half's values within the central 90 % of forecasts from the first half."""
    times, values, mask = test
    context = mask & (jnp.arange(values.shape[1]) <= 20)[None, :, None]

    @eqx.filter_jit
    def paths(model, key):
        keys = jax.random.split(key, len(times))
        one = jax.vmap(lambda t, x, m, key: model.decode(model.posterior(t, x, m, t, key=key).zs))
        return one(times, values, context, keys)

    drawn = np.stack([paths(model, jax.random.key(n)) for n in range(samples)])
    drawn += np.asarray(model.likelihood.scale) * np.random.default_rng(0).standard_normal(drawn.shape)
    low, high = np.quantile(drawn, [0.05, 0.95], axis=0)
    inside = (low <= np.asarray(values)) & (np.asarray(values) <= high)
    return round(float(inside[:, 21:].mean()), 3)


def law(model: nde.LatentSDE, times: int, series: int = 1000) -> dict[str, Any]:
    """Wasserstein distance of each coordinate's law at the end of so many horizons, in standard deviations."""
    rows = 40 * times + 1
    wanted, again = (truth(rows, float(times), series, seed)[0][:, -1] for seed in (11, 12))
    further = with_steps(model, 400 * times, times)
    draw = eqx.filter_jit(jax.vmap(lambda key: further.prior(jnp.array([0.0, 10.0 * times]), key=key)[-1]))
    found = np.asarray(jax.vmap(model.decoder)(draw(jax.random.split(jax.random.key(5), series))))
    finite = np.isfinite(found).all(1)

    def apart(one: np.ndarray, other: np.ndarray) -> list[float]:
        return [round(float(wasserstein_distance(one[:, c], other[:, c])), 3) for c in range(3)]

    return {
        "model": apart(found[finite], wanted),
        "another draw of the truth": apart(again, wanted),
        "not finite": int((~finite).sum()),
    }
