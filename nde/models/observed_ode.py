"""A neural ODE that is seen, in part and with noise."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nde.fields import parameter_values, ParameterValues, residual_rates
from nde.models.neural_ode import NeuralODE
from nde.models.observation import Observation
from nde.objectives import AbstractLikelihood
from nde.paths import Inputs


class ObservedODE(eqx.Module):
    r"""An ODE, its unknown start states, and a law of what is observed of it.

    Channel $c$ observes state $i(c)$: $g(x_c) = g(y_{i(c)}) + \varepsilon_c$, with $g$ the identity or, for noise in
    proportion, the logarithm; the likelihood is that of $g(x)$.

    ```python
    >>> import jax.numpy as jnp, nde
    >>> ode = nde.NeuralODE(lambda t, y, args: jnp.stack([-y[0], y[0]]))  # a drug leaves the gut, and enters the blood
    >>> model = nde.ObservedODE(ode, None, nde.GaussianLikelihood(1), observed=(1,))  # of which the blood is sampled
    >>> concentrations = model.locations(model.ode(jnp.array([0, 1, 2]), jnp.array([1.0, 0.0])))[:, 0]
    >>> [round(float(x), 2) for x in concentrations]
    [0.0, 0.63, 0.86]

    ```

    **Arguments of the constructor:**

    - `ode`: a `nde.models.NeuralODE` on one array. With `positive` it solves for the logarithms of the states, as
      of a `nde.fields.LogField`.
    - `location`, `scale`: the units of what is solved for, $y = m + s z$ elementwise, as of a
      `nde.fields.AffineField`; `None` where it is solved as it is. Constants, a number for each state.
    - `starts`: `(series, segments, state)`; learned start states, in the coordinates that are solved, several a series
      for `nde.objectives.multiple_shooting`. `None` if starts are given by the caller.
    - `likelihood`: a law of one row `(channels,)` of $g(x)$.
    - `observed`: the state that each channel observes, an index.
    - `observe`: in place of `observed`, which is then empty, a `nde.models.Observation` of the states in their own
      units, $g(x_c) = g(h_c(t, y; p)) + \varepsilon_c$; it reads the parameters of the field.
    - `positive`: whether the states solved for are logarithms.
    - `log_noise`: whether $g$ is the logarithm, which needs `positive`.

    Models in standardised states fit alike in whatever unit the values are given: learned starts, tolerances and
    penalties count in units of `scale`.

    **Raises:** `ValueError` for an index below zero, or `log_noise` without `positive`, or one of
    `location` and `scale` without the other.
    """

    ode: NeuralODE
    starts: Float[Array, "series segments state"] | None
    likelihood: AbstractLikelihood
    observed: tuple[int, ...] = eqx.field(static=True)
    positive: bool = eqx.field(static=True, default=False)
    log_noise: bool = eqx.field(static=True, default=False)
    location: tuple[float, ...] | None = eqx.field(static=True, default=None)
    scale: tuple[float, ...] | None = eqx.field(static=True, default=None)
    observe: Observation | None = None

    def __check_init__(self):
        if (self.location is None) != (self.scale is None):
            raise ValueError(f"ObservedODE needs both or none of {self.location=} and {self.scale=}.")
        if min(self.observed, default=0) < 0 or (self.log_noise and not self.positive and self.observe is None):
            raise ValueError(
                "ObservedODE needs indices of states from zero, and log_noise only with positive states, but got "
                f"observed={self.observed}, positive={self.positive} and log_noise={self.log_noise}."
            )

    def locations(
        self, ys: Float[Array, "*rows state"], ts: Float[Array, "*rows"] | None = None, inputs: Inputs | None = None
    ) -> Float[Array, "*rows channels"]:
        """Where $g(x)$ is centred, given what was solved for, and when; `ts` may be left out without `observe`.

        **Arguments:** `inputs`: those of one series, whose values `observe` reads beside the parameters.
        """
        if self.observe is not None:
            return self._observations(self.observe, ys, ts, inputs)
        chosen = np.array(self.observed)
        seen = jnp.stack([ys[..., i] for i in self.observed], axis=-1)
        if self.location is not None and self.scale is not None:
            location, scale = (np.array(x)[chosen].astype(seen.dtype) for x in (self.location, self.scale))
            seen = jnp.broadcast_to(location, seen.shape) + seen * jnp.broadcast_to(scale, seen.shape)
        return jnp.exp(seen) if self.positive and not self.log_noise else seen

    def own_units(self, ys: Float[Array, "*rows state"]) -> Float[Array, "*rows state"]:
        """The states themselves, given what was solved for."""
        if self.location is not None and self.scale is not None:
            location, scale = (np.asarray(x, ys.dtype) for x in (self.location, self.scale))
            ys = jnp.broadcast_to(location, ys.shape) + ys * jnp.broadcast_to(scale, ys.shape)
        return jnp.exp(ys) if self.positive else ys

    def _observations(self, observe: Observation, ys: Array, ts: Array | None, inputs: Inputs | None) -> Array:
        if ts is None:
            raise ValueError("ObservedODE.locations needs the times `ts`, for what is observed is a function of them.")
        values = parameter_values(self.ode.field)

        def observed(t, y):
            given = {} if inputs is None else inputs.at(t)
            return observe(t, y, ParameterValues({**values, **given}))

        states = self.own_units(ys).reshape(-1, ys.shape[-1])
        found = jax.vmap(observed)(jnp.broadcast_to(ts, ys.shape[:-1]).reshape(-1), states)
        found = found.reshape(*ys.shape[:-1], -1)
        return jnp.log(found) if self.log_noise else found

    def residual_rates(
        self, ts: Float[Array, " rows"], ys: Float[Array, "rows state"], inputs: Inputs | None = None
    ) -> Float[Array, "rows state"]:
        """What the network of a `nde.fields.Hybrid` adds along states, in their coordinates; zero without one."""

        def added(t, y):
            return residual_rates(self.ode.field, t, y, None if inputs is None else inputs.at(t))

        return jax.vmap(added)(ts, ys)


def forward_mode(model: ObservedODE) -> ObservedODE:
    """The same model, to be differentiated forward, by diffrax's own loop; a solve that fails is no error but not
    finite."""
    numerics = replace(model.ode.numerics, adjoint=diffrax.ForwardMode(), throw=False)
    return eqx.tree_at(lambda m: m.ode.numerics, model, numerics)


def observed_states(observed: Mapping[str, str], states: Sequence[str]) -> tuple[int, ...]:
    """The indices of the states that channels observe, in the order of the channels; `observed`: channel to state.

    **Raises:** `ValueError` for a state that does not exist, naming the channel, the state and those that do.
    """
    for channel, state in observed.items():
        if state not in states:
            raise ValueError(
                f"channel '{channel}' observes the state '{state}', but the states are {', '.join(states)}."
            )
    return tuple(states.index(state) for state in observed.values())
