"""The drift and diffusion of the neural SDEs over a control path, by name."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from nde.fields.controlled import ControlledField
from nde.fields.mlp import MLPField
from nde.fields.time_diffusion import LinearNoise, TimeDiffusion


class SDEPair(NamedTuple):
    """What `nde.ControlledSDE` is made of: `nde.ControlledSDE(initial, *pair[:2], readout, geometric=pair.geometric)`.

    - `drift`, `diffusion`: fields `f(t, z, X(t))` and `g(t, z)`; the latter a diagonal.
    - `geometric`: whether they are those of $dz / z$.
    """

    drift: Callable[..., Any]
    diffusion: Callable[..., Any]
    geometric: bool


class _Kind(NamedTuple):
    drift_sees_time: bool
    diffusion: str
    geometric: bool = False


SDE_KINDS: dict[str, _Kind] = {
    "langevin": _Kind(drift_sees_time=False, diffusion="time"),
    "linear_noise": _Kind(drift_sees_time=True, diffusion="linear"),
    "geometric": _Kind(drift_sees_time=True, diffusion="time", geometric=True),
    "plain": _Kind(drift_sees_time=True, diffusion="network"),
}
"""By the name that a config gives; see `sde_pair`."""


def sde_pair(
    kind: str,
    state_size: int,
    path_size: int,
    width: int,
    depth: int,
    *,
    noise: float = 0.3,
    rate: float = 1.0,
    bounded: bool | None = None,
    key: PRNGKeyArray,
) -> SDEPair:
    r"""Drift and diffusion of one of the stable neural SDEs, or of a plain one; $\bar z = \zeta(t, z, X(t))$.

    | `kind` | equation | |
    |---|---|---|
    | `langevin` | $dz = \gamma(\bar z)\,dt + \sigma(t)\,dW$ | the noise does not hang on the state |
    | `linear_noise` | $dz = \gamma(t, \bar z)\,dt + \sigma(t)\,z\,dW$ | |
    | `geometric` | $dz / z = \gamma(t, \bar z)\,dt + \sigma(t)\,dW$ | no state changes its sign, zero stays |
    | `plain` | $dz = \gamma(t, \bar z)\,dt + g(t, z)\,dW$ | for comparison: `g` any network |

    **Arguments:** `kind`: one of `SDE_KINDS`; `state_size`, `path_size`: of `z` and `X`; `width`, `depth`: of the
    hidden layers of each network; `rate`: a factor in front of $\gamma$ to start from, how fast a state moves; `noise`:
    the size of $\sigma$ to start from, of `g` a factor in front of the network; `bounded`: whether the outputs of the
    networks $\gamma$, $\sigma$ and `g` are put through $\tanh$, as the paper's theorems do without and its authors'
    code does; `None` for $\gamma$ of the geometric kind alone; `key`.

    **A geometric rate has to be bounded.** A network grows in proportion to `z`, so that $dz = z\,\gamma\,dt$ grows
    with $z^2$ and reaches infinity in finite time, whatever the solver. (Trained without a bound on BasicMotions with
    half of its values removed, and on 200 noisy spirals, a solve was not finite within 40 and 150 steps of Adam.)

    **Raises:** `ValueError` for another `kind`, or as `nde.fields.ControlledField` and `nde.fields.TimeDiffusion`.

    **Source:** Oh, Lim, Kim, ICLR 2024, arXiv 2402.14989, section 3 (Neural LSDE, LNSDE, GSDE).
    """
    if kind not in SDE_KINDS:
        raise ValueError(f"there is no kind of SDE '{kind}'; the kinds are {', '.join(SDE_KINDS)}.")
    drift_key, diffusion_key = jax.random.split(key)
    chosen = SDE_KINDS[kind]
    drift = ControlledField(
        state_size,
        path_size,
        width,
        depth,
        time=chosen.drift_sees_time,
        final_activation=_final(chosen.geometric if bounded is None else bounded),
        scale=rate,
        key=drift_key,
    )
    bounded = bool(bounded)
    if chosen.diffusion == "network":
        diffusion: Any = MLPField(
            state_size, width, depth, time=True, final_activation=_final(bounded), scale=noise, key=diffusion_key
        )
    else:
        diffusion = TimeDiffusion(state_size, width, depth, scale=noise, bounded=bounded, key=diffusion_key)
        diffusion = LinearNoise(diffusion) if chosen.diffusion == "linear" else diffusion
    return SDEPair(drift, diffusion, chosen.geometric)


def _final(bounded: bool) -> Callable[[Array], Array]:
    return jnp.tanh if bounded else _unchanged


def _unchanged(x: Array) -> Array:  # one function for all: a new one each time would compile each member anew
    return x
