"""A population: one equation, and parameters that differ from individual to individual."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from nde.dtypes import as_floats, default_float
from nde.fields import KnownField, Parameter, ParameterValues
from nde.models.neural_ode import NeuralODE
from nde.objectives import AbstractLikelihood
from nde.paths import Inputs

Individual = tuple[Array, Array, Array, Inputs | None]
"""Times `(rows,)`, values and mask `(rows, channels)`, and inputs, of one individual."""


class Population(eqx.Module):
    r"""An ODE whose named parameters have a fixed part and a random effect: a nonlinear mixed-effects model.

    $$\eta_i \sim \mathcal N(0, \Omega), \quad p_{ik} = T_k(r_k + \eta_{ik}), \quad
    \dot y_i = f(t, y_i; p_i, u_i(t)), \quad x_{ij} \sim p\bigl(\cdot \mid g(t_{ij}, y_i(t_{ij}); p_i)\bigr),$$

    with $T_k$ the transform of `nde.Parameter` and $r_k$ its `raw`: with `log=True` the effect is log-normal,
    $p_{ik} = \theta_k e^{\eta_{ik}}$, and with bounds it stays between them. An effect whose name is no parameter is
    read as an input of that name, $\eta_{ik}$ itself: by a network that differs from individual to individual.

    ```python
    >>> import jax.numpy as jnp, nde
    >>> drug = nde.KnownField(lambda t, y, p: -p.cl / p.v * y, {
    ...     "cl": nde.Parameter(2.0, log=True), "v": nde.Parameter(20.0, log=True)})
    >>> model = nde.Population(nde.NeuralODE(drug, steps_per_row=4), nde.GaussianLikelihood(1), ["cl", "v"],
    ...     observe=lambda t, y, p: y / p.v, start=jnp.zeros(1), spread=0.3)
    >>> inputs = nde.paths.Inputs(doses=nde.paths.Doses([0.0], [100.0], [0], states=1))
    >>> seen = model.locations(jnp.array([0.0, 12.0]), inputs, jnp.zeros(2))  # before the dose, and half a day after
    >>> [round(float(x), 2) for x in seen[:, 0]]
    [0.0, 1.51]

    ```

    **Arguments of the constructor:**

    - `ode`: a `nde.NeuralODE` of a `nde.KnownField`, or of a field that holds one. `nde.objectives.LaplaceMarginal`
      takes third derivatives: give the ODE `steps_per_row`, or `diffrax.ConstantStepSize()`, `dt0` and `max_steps`.
    - `likelihood`: the law of one row `(channels,)` around $g$.
    - `effects`: $k$, the names that vary. Static.
    - `observe`: $g$, `observe(t, y, p)` to `(channels,)`; `p` has parameters, inputs and effects as attributes. Of a
      function that returns a list, or a dictionary by channel, make a `nde.models.Observation`.
    - `start`: $y_i(t_{i0})$: numbers, one a state, which stay as they are, or a function of `p` that gives them.
    - `spread`: what the standard deviations of the effects start from: a number, or one for each.
    - `correlated`: whether $\Omega$ is full, and not diagonal. Static.
    - `location`, `scale`: $m$ and $s$ of what is solved for, $z = (y - m) / s$, each `(state,)` or one number.
      `start` and what `observe` sees are in own units, the field and doses in those of $z$. Static.

    **Raises:** `ValueError` for an effect that is named twice or is of a fixed parameter, a spread that is not
    positive, or an ODE without a known field.

    **Source:** Lindstrom and Bates, *Nonlinear mixed effects models for repeated measures data*, Biometrics 1990.
    """

    ode: NeuralODE
    likelihood: AbstractLikelihood
    observe: Callable[[Any, Array, Any], Array]
    start: Any
    raw_spread: Float[Array, " effects"]
    raw_correlation: Float[Array, " pairs"] | None
    effects: tuple[str, ...] = eqx.field(static=True)
    location: tuple[float, ...] = eqx.field(static=True)
    scale: tuple[float, ...] = eqx.field(static=True)

    def __init__(
        self,
        ode: NeuralODE,
        likelihood: AbstractLikelihood,
        effects: Sequence[str],
        *,
        observe: Callable[[Any, Array, Any], Array],
        start: ArrayLike | Callable[[Any], Array],
        spread: ArrayLike = 0.3,
        correlated: bool = False,
        location: Sequence[float] = (0.0,),
        scale: Sequence[float] = (1.0,),
    ):
        parameters = known_parameters(ode.field)
        fixed = [name for name in effects if name in parameters and parameters[name].fixed]
        if isinstance(effects, str) or len(set(effects)) != len(effects) or not effects or fixed:
            said = f"'{fixed[0]}' is a fixed parameter" if fixed else f"got {effects!r}"
            raise ValueError(f"Population needs a list of names that vary, each once, but {said}.")
        begin = np.broadcast_to(np.asarray(spread, np.float64), len(effects))
        if not ((begin > 0) & (begin < np.inf)).all():
            raise ValueError(f"Population needs a positive spread of the effects, but got {spread}.")
        self.ode, self.likelihood, self.observe = ode, likelihood, observe
        # An array would be a leaf, and learned: numbers stay.
        self.start = start if callable(start) else tuple(np.asarray(start, np.float64).tolist())
        self.effects = tuple(effects)
        self.location, self.scale = tuple(map(float, location)), tuple(map(float, scale))
        self.raw_spread = jnp.asarray(np.log(begin), default_float())
        pairs = len(effects) * (len(effects) - 1) // 2
        self.raw_correlation = jnp.zeros(pairs, self.raw_spread.dtype) if correlated else None

    @property
    def factor(self) -> Float[Array, "effects effects"]:
        r"""$L$, lower triangular with a positive diagonal: $\Omega = L L^\top$. It is $D C$, with the rows of $C$ of
        length one, so that $D$ are the standard deviations."""
        size = len(self.effects)
        if self.raw_correlation is None:
            return jnp.diag(jnp.exp(self.raw_spread))
        rows, columns = np.tril_indices(size, -1)
        lower = jnp.eye(size, dtype=self.raw_spread.dtype).at[rows, columns].set(self.raw_correlation)
        lower = lower / jnp.linalg.norm(lower, axis=1, keepdims=True)
        return jnp.exp(self.raw_spread)[:, None] * lower

    @property
    def covariance(self) -> Float[Array, "effects effects"]:
        r"""$\Omega$, of the effects in the coordinates of `nde.Parameter.raw`."""
        return self.factor @ self.factor.T

    def individual(self, eta: Float[Array, " effects"]) -> dict[str, Array]:
        """The parameters of an individual with these effects, and effects that are no parameters, by name."""
        known, found = known_parameters(self.ode.field), {}
        for k, name in enumerate(self.effects):
            parameter = known.get(name)
            if parameter is None:
                found[name] = eta[k]
            else:
                assert parameter.raw is not None
                found[name] = eqx.tree_at(lambda p: p.raw, parameter, parameter.raw + eta[k]).value
        return found

    def states(self, ts: Float[Array, " rows"], inputs: Inputs | None, eta: Float[Array, " effects"]) -> Array:
        """The states of an individual at its times, `(rows, state)`, in own units; before what is given at a row's
        time."""
        return self._solve(ts, self._inputs(inputs, eta))

    def locations(
        self, ts: Float[ArrayLike, " rows"], inputs: Inputs | None, eta: Float[ArrayLike, " effects"]
    ) -> Float[Array, "rows channels"]:
        """Where the values of an individual with these effects lie: $g$ along its solution. Zero effects: typical."""
        return self._locations(ts, inputs, eta, None)

    def _locations(self, ts: Any, inputs: Inputs | None, eta: Any, mask: Array | None) -> Array:
        """The same; with a mask, rows without any value have a location of one and no derivative: what is observed may
        be infinite there, as the logarithm of a concentration before the first dose."""
        ts, eta = as_floats(ts, eta)
        given = self._inputs(inputs, eta)
        ys = self._solve(ts, given)
        if mask is not None:
            seen = jnp.any(mask, axis=-1)
            place = jnp.where(jnp.any(seen), jnp.argmax(seen), len(ts) - 1)
            ys = jnp.where(seen[:, None], ys, ys[place][None])
            ts = jnp.where(seen, ts, ts[place])
        found = jax.vmap(lambda t, y: jnp.atleast_1d(self.observe(t, y, self._values(given, t))))(ts, ys)
        return found if mask is None else jnp.where(mask, found, 1.0)

    def _solve(self, ts: Array, given: Inputs) -> Array:
        start = self.start(self._values(given, ts[0])) if callable(self.start) else self.start
        # A search for the effects must be able to try bad ones: where the solve fails the states are infinite.
        ode = eqx.tree_at(lambda m: m.numerics, self.ode, dataclasses.replace(self.ode.numerics, throw=False))
        location, scale = (np.asarray(x, ts.dtype) for x in (self.location, self.scale))
        ys = ode(ts, (jnp.asarray(start, ts.dtype) - location) / scale, given)
        return location[None] + scale[None] * ys

    def log_joint(self, individual: Individual, eta: Float[Array, " effects"]) -> Float[Array, ""]:
        r"""$\log p(x_i \mid \eta) + \log p(\eta)$ of an individual: times, values, mask, inputs."""
        ts, values, mask, inputs = individual
        found = self._locations(ts, inputs, eta, mask)
        density = self.likelihood.log_prob(jnp.where(mask, values, 1.0).astype(found.dtype), found)
        return jnp.sum(jnp.where(mask, density, 0.0)) + self.log_prior(eta)

    def expected_curvature(
        self, individual: Individual, eta: Float[Array, " effects"]
    ) -> Float[Array, "effects effects"]:
        r"""$-\nabla^2 \log p(x_i, \eta)$ of the model linearised about $\eta$: $\Omega^{-1} + \sum_j J_j^\top I_j J_j$.

        $I_j = m'^2 / V + \tfrac12 (V' / V)^2$ is the information that a normal value of mean $m(z)$ and variance
        $V(z)$ has of its location $z$; for another law it is that of the normal law with its mean and variance.
        """
        ts, _, mask, inputs = individual

        def located(eta):
            found = self._locations(ts, inputs, eta, mask)
            return found, found

        slope, found = jax.jacfwd(located, has_aux=True)(eta)
        law = self.likelihood
        mean_slope = jax.jvp(law.mean, (found,), (jnp.ones_like(found),))[1]
        variance, change = jax.jvp(law.variance, (found,), (jnp.ones_like(found),))
        information = jnp.where(mask, mean_slope**2 / variance + 0.5 * (change / variance) ** 2, 0.0)
        root = jax.scipy.linalg.solve_triangular(self.factor, jnp.eye(len(eta), dtype=eta.dtype), lower=True)
        return jnp.einsum("rce,rc,rcf->ef", slope, information, slope) + root.T @ root

    def log_prior(self, eta: Float[Array, " effects"]) -> Float[Array, ""]:
        r"""$\log \mathcal N(\eta; 0, \Omega)$."""
        standard = jax.scipy.linalg.solve_triangular(self.factor, eta, lower=True)
        sizes = jnp.log(jnp.diagonal(self.factor))
        return -0.5 * jnp.sum(standard**2) - jnp.sum(sizes) - 0.5 * len(self.effects) * np.log(2 * np.pi)

    def _inputs(self, inputs: Inputs | None, eta: Array) -> Inputs:
        inputs = Inputs() if inputs is None else inputs
        constants = {**inputs.constants, **self.individual(eta)}
        return Inputs(inputs.doses, covariates=inputs.covariates, constants=constants)

    def _values(self, inputs: Inputs, t: Array) -> ParameterValues:
        typical = {name: x.value for name, x in known_parameters(self.ode.field).items()}
        return ParameterValues({**typical, **inputs.at(t)})


def known_parameters(field: Any) -> Mapping[str, Parameter]:
    """The parameters of the known field in a field, however it is wrapped.

    **Raises:** `ValueError` if there is none, or more than one.
    """

    def is_known(x: Any) -> bool:
        return isinstance(x, KnownField)

    found = [x for x in jax.tree.leaves(field, is_leaf=is_known) if is_known(x)]
    if len(found) != 1:
        raise ValueError(
            f"Population needs a field that holds one KnownField, but {type(field).__name__} has {len(found)}."
        )
    return found[0].parameters
