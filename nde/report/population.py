"""How a population fits: what is predicted of each individual, weighted residuals, a visual predictive check."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from matplotlib.figure import Figure

from nde.models import at_tolerance, Population
from nde.objectives import posterior_mode
from nde.report.figures import BLUE, GREY, ORANGE

Individuals = tuple[Any, Any, Any, Any]
"""Times `(individuals, rows)`, values and mask `(individuals, rows, channels)`, and inputs with a leading axis."""


class IndividualFits(NamedTuple):
    """Of each individual: its effects $\\hat\\eta$, and where its values lie for these and for the typical ones."""

    effects: Float[np.ndarray, "individuals effects"]
    individual: Float[np.ndarray, "individuals rows channels"]
    population: Float[np.ndarray, "individuals rows channels"]
    decrement: Float[np.ndarray, " individuals"]


def individual_fits(model: Population, data: Individuals) -> IndividualFits:
    """The modes of all individuals' effects given their values, and the predictions with these and with none.

    Individuals who were not fitted, with a few values or none, are predicted likewise; `decrement` says how far from a
    maximum the search ended, see `nde.objectives.posterior_mode`.
    """
    return IndividualFits(*map(np.asarray, _fits(model, *map(_arrays, data))))


@eqx.filter_jit
def _fits(model: Population, ts: Array, values: Array, mask: Array, inputs: Any):
    def one(ts, values, mask, inputs):
        mode, decrement = posterior_mode(model, (ts, values, mask, inputs))
        typical = model.locations(ts, inputs, jnp.zeros_like(mode))
        return mode, model.locations(ts, inputs, mode), typical, decrement

    return jax.vmap(one)(ts, values, mask, inputs)


def weighted_residuals(model: Population, data: Individuals) -> Float[np.ndarray, "individuals rows channels"]:
    r"""Conditional weighted residuals: $\Sigma^{-1/2} (x - \mu)$ with $\mu = m(\hat\eta) - J \hat\eta$ and
    $\Sigma = J \Omega J^\top + \mathrm{diag}(V(\hat\eta))$, where $m$ and $V$ are mean and variance of the values,
    and $J = \partial m / \partial \eta$ at $\hat\eta$.

    Of mean zero, variance one and without correlation, were the model true and linear about $\hat\eta$. NaN where no
    value is.

    **Source:** Hooker, Staatz, Karlsson, *Conditional weighted residuals (CWRES)*, Pharm. Res. 2007.
    """
    return np.asarray(_residuals(model, *map(_arrays, data)))


@eqx.filter_jit
def _residuals(model: Population, ts: Array, values: Array, mask: Array, inputs: Any) -> Array:
    def one(ts, values, mask, inputs):
        mode, _ = posterior_mode(model, (ts, values, mask, inputs))

        def mean(eta):
            return model.likelihood.mean(model.locations(ts, inputs, eta))

        found, slope = mean(mode), jax.jacfwd(mean)(mode)
        variance = model.likelihood.variance(model.locations(ts, inputs, mode))
        flat = mask.reshape(-1)
        slope = jnp.where(flat[:, None], slope.reshape(len(flat), -1), 0.0)
        spread = slope @ model.covariance @ slope.T + jnp.diag(jnp.where(flat, variance.reshape(-1), 1.0))
        error = jnp.where(flat, values.reshape(-1) - found.reshape(-1) + slope @ mode, 0.0)
        sizes, axes = jnp.linalg.eigh(spread)  # the symmetric root keeps each residual with its value
        white = axes @ ((axes.T @ error) / jnp.sqrt(sizes))
        return jnp.where(flat, white, jnp.nan).reshape(mask.shape)

    return jax.vmap(one)(ts, values, mask, inputs)


class PredictiveCheck(NamedTuple):
    """Quantiles of the values in bins of time, as observed, and the band in which those of simulated data lie.

    - `centres`: `(bins,)`, the mean time of the values of each.
    - `observed`, `low`, `middle`, `high`: `(quantiles, bins, channels)`.
    - `quantiles`: which.
    - `failed`: the share of all draws of individuals that could not be solved, in whose place others of the same
      individual stand.
    """

    centres: np.ndarray
    observed: np.ndarray
    low: np.ndarray
    middle: np.ndarray
    high: np.ndarray
    quantiles: tuple[float, ...]
    failed: float = 0.0


def predictive_check(
    model: Population,
    data: Individuals,
    *,
    edges: Sequence[float],
    key: PRNGKeyArray,
    repeats: int = 200,
    quantiles: Sequence[float] = (0.05, 0.5, 0.95),
    band: float = 0.9,
) -> PredictiveCheck:
    """A visual predictive check: `repeats` data sets are drawn from the model, effects and noise, at the times and with
    the inputs of the data, and their quantiles in bins of time set beside the observed ones.

    **Arguments:** `edges`: of the bins, increasing; a value outside them is in none. `quantiles`: of the values;
    `band`: the share of the simulated quantiles between `low` and `high`.

    **Raises:** `ValueError` for a bin in which a channel has no value, or if no draw of an individual could be solved.

    **Source:** Holford, *The visual predictive check*, PAGE 14, 2005.
    """
    ts, values, mask, inputs = (_arrays(x) for x in data)
    effects_key, noise_key = jax.random.split(key)
    eta = jax.random.normal(effects_key, (repeats, len(ts), len(model.effects)), model.raw_spread.dtype)
    located = np.asarray(_located(simulating(model, inputs), ts, inputs, eta))
    solved = np.asarray((np.isfinite(located) | ~np.asarray(mask)[None]).all((2, 3)))
    if not solved.any(0).all():
        raise ValueError("predictive_check: of an individual no draw could be solved.")
    located = replaced(located, solved)
    simulated = model.likelihood.sample(located, series=[str(i) for i in range(len(ts))], key=noise_key)
    place = np.digitize(np.asarray(ts), edges) - 1
    kept = [np.asarray(mask) & (place == n)[..., None] for n in range(len(edges) - 1)]
    for n, one in enumerate(kept):
        if not one.any((0, 1)).all():
            raise ValueError(
                f"predictive_check: a channel has no value between the times {edges[n]} and {edges[n + 1]}."
            )

    def of(values: np.ndarray) -> np.ndarray:
        channels = range(values.shape[-1])
        return np.stack(
            [[np.quantile(values[..., c][one[..., c]], quantiles) for c in channels] for one in kept]
        ).transpose(2, 0, 1)

    drawn = np.stack([of(one) for one in simulated])
    low, middle, high = np.quantile(drawn, [(1 - band) / 2, 0.5, (1 + band) / 2], axis=0)
    centres = np.array([np.asarray(ts)[one.any(-1)].mean() for one in kept])
    failed = float((~solved).mean())
    return PredictiveCheck(centres, of(np.asarray(values)), low, middle, high, tuple(quantiles), failed)


def replaced(located: np.ndarray, solved: np.ndarray) -> np.ndarray:
    """Draws `(draws, individuals, …)`, those that could not be solved replaced by others of the same individual."""
    order = np.argsort(~solved, axis=0, kind="stable")  # solved ones first
    place = np.arange(len(solved))[:, None] % solved.sum(0)[None]
    chosen = np.where(solved, np.arange(len(solved))[:, None], np.take_along_axis(order, place, axis=0))
    return located[chosen, np.arange(located.shape[1])[None]]


def simulating(model: Population, inputs: Any) -> Population:
    """The model, solved to a tolerance: a drawn individual may be faster than the fixed steps of the fit can follow.

    With doses that reset a state, which need a known grid, it stays as it is.
    """
    if inputs is not None and inputs.doses is not None and inputs.doses.resets is not None:
        return model
    return eqx.tree_at(lambda m: m.ode, model, at_tolerance(model.ode, TOLERANCE))


TOLERANCE = 1e-4


@eqx.filter_jit
def _located(model: Population, ts: Array, inputs: Any, standard: Array) -> Array:
    def one(ts, inputs, standard):
        return model.locations(ts, inputs, model.factor @ standard)

    return jax.lax.map(lambda draw: jax.vmap(one)(ts, inputs, draw), standard)


def plot_predictive_check(check: PredictiveCheck, data: Individuals, *, names: Sequence[str], time: str) -> Figure:
    """Observed quantiles as lines over the bands of simulated ones, and the values as dots: a panel a channel."""
    ts, values, mask, _ = data
    channels = check.observed.shape[-1]
    figure = Figure(figsize=(5.2 * channels, 3.6), layout="constrained")
    if check.failed:
        figure.suptitle(f"{100 * check.failed:.1g} % of the individuals drawn could not be solved", fontsize=9)
    for c, axes in enumerate(figure.subplots(1, channels, squeeze=False)[0]):
        for q, level in enumerate(check.quantiles):
            colour = ORANGE if abs(level - 0.5) < 1e-9 else BLUE
            axes.fill_between(check.centres, check.low[q, :, c], check.high[q, :, c], color=colour, alpha=0.25, lw=0)
            axes.plot(check.centres, check.observed[q, :, c], color=colour, lw=1.4, ls="-" if level == 0.5 else "--")
            axes.annotate(
                f"{level:.0%}", (check.centres[-1], check.observed[q, -1, c]), color=colour, fontsize=8,
                xytext=(4, 0), textcoords="offset points", va="center",
            )  # fmt: skip
        seen = np.asarray(mask)[..., c]
        axes.plot(np.asarray(ts)[seen], np.asarray(values)[..., c][seen], ".", color=GREY, ms=3, alpha=0.7)
        axes.set_xlabel(time)
        axes.set_ylabel(names[c])
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _arrays(tree: Any) -> Any:
    return jax.tree.map(jnp.asarray, tree)
