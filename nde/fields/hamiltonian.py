"""Dynamics from a learned energy, with damping and forcing: a port-Hamiltonian field."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nde.fields.checks import check_sizes

State = tuple[Float[Array, " state"], Float[Array, " state"]]


class HamiltonianField(eqx.Module):
    r"""Motion by a learned energy $H(q, p)$, a network, with optional damping and forcing:

    $$\dot q = \partial_p H, \qquad \dot p = -\partial_q H - R\,\partial_p H + G\,u(t).$$

    Without damping and forcing the energy is conserved and the flow is symplectic. With damping, $R = L L^T$ takes
    energy away, never adds any, and the forcing does work: $\dot H = -\dot q^T R \dot q + \dot q^T G u$. Positions and
    momenta need not be those of mechanics: any canonical coordinates do.

    **Arguments of the constructor:**

    - `state_size`: length of `q`, and of `p`.
    - `width`, `depth`: of the energy's network.
    - `damping`: whether there is an `R`. It starts as 0.1 times the identity (at zero it would have no gradient).
    - `forcing`: the inputs $u$, a function of time that returns shape `(inputs,)`; a learnable module, if you like.
      `G`, of shape `(state_size, inputs)`, is learned, and starts as ones on the diagonal: input `i` pushes `p[i]`.
    - `activation`: elementwise and twice differentiable: the field is the energy's gradient, so that ReLU would make it
      piecewise constant.
    - `key`: a JAX random key, for the initial weights.

    **Call:** `field(t, (q, p), args)` with `q` and `p` of shape `(state_size,)`; returns the pair of rates. `t` is what
    the forcing sees; `args` is not used.

    **Raises:** `ValueError` for a size below one, a depth below zero, or a forcing that does not return one vector.

    **Limits:** the solve conserves the energy only to the solver's error, or in the mean with a symplectic solver; the
    energy is known up to a constant. Each call costs one gradient of the network.

    **Source:** Greydanus, Dzamba, Yosinski, *Hamiltonian Neural Networks*, NeurIPS 2019; Zhong, Dey, Chakraborty,
    *Dissipative SymODEN*, 2020, arXiv 2002.08860.
    """

    network: eqx.nn.MLP
    factor: Float[Array, "state state"] | None
    input_matrix: Float[Array, "state inputs"] | None
    forcing: Callable[[Any], Float[Array, " inputs"]] | None

    def __init__(
        self,
        state_size: int,
        width: int,
        depth: int,
        *,
        damping: bool = False,
        forcing: Callable[[Any], Float[Array, " inputs"]] | None = None,
        activation: Callable[[Array], Array] = jax.nn.softplus,
        key: PRNGKeyArray,
    ):
        check_sizes("HamiltonianField", state_size=state_size, width=width, depth=depth)
        # a constant would not move the energy's gradient
        self.network = eqx.nn.MLP(
            2 * state_size, "scalar", width, depth, activation=activation, use_final_bias=False, key=key
        )
        self.factor = 0.1**0.5 * jnp.eye(state_size) if damping else None
        self.input_matrix = None if forcing is None else jnp.eye(state_size, _length(forcing))
        self.forcing = forcing

    def energy(self, q: Float[Array, " state"], p: Float[Array, " state"]) -> Float[Array, ""]:
        """The learned energy $H(q, p)$, up to a constant, in units of `p q` per time."""
        return self.network(jnp.concatenate([q, p]))

    @property
    def damping_matrix(self) -> Float[Array, "state state"] | None:
        """The damping $R = L L^T$, symmetric and positive semidefinite; `None` without damping."""
        return None if self.factor is None else self.factor @ self.factor.T

    def __call__(self, t: Any, y: State, args: Any = None) -> State:
        q, p = y
        dH_dq, dH_dp = jax.grad(self.energy, argnums=(0, 1))(q, p)
        dq, dp = dH_dp, -dH_dq
        if self.factor is not None:
            dp = dp - self.factor @ (self.factor.T @ dH_dp)
        if self.forcing is not None and self.input_matrix is not None:
            dp = dp + self.input_matrix @ jnp.asarray(self.forcing(t), p.dtype)
        return dq, dp


def _length(forcing: Callable[[Any], Any]) -> int:
    shape = eqx.filter_eval_shape(lambda t: jnp.asarray(forcing(t)), jnp.zeros(())).shape
    if len(shape) != 1:
        raise ValueError(f"HamiltonianField needs a forcing of shape (inputs,), but its forcing returned {shape}.")
    return shape[0]
