"""Published samplers of diffusion models, by name."""

from dataclasses import dataclass
from typing import Any

import diffrax
import jax.numpy as jnp

from nde.solvers import Exponential, ExponentialAdams, Lawson


def er_sde_noise(chi: Any) -> Any:
    r"""$\varphi(\chi) = \chi\,(e^{\chi^{0.3}} + 10)$, the amount of noise of ER-SDE-Solver.

    **Source:** Cui et al., *Elucidating the solution space of extended reverse-time SDE for diffusion models*, 2023,
    arXiv 2309.06169.
    """
    return chi * (jnp.exp(chi**0.3) + 10)


@dataclass(frozen=True)
class Sampler:
    """A sampler: which `form` of `nde.diffusion_model_term`, with how much `noise`, by which `solver`.

    `evaluations`: of the prediction, a step. A `form` of `"velocity"` is the probability-flow ODE written out, for
    any solver of diffrax's.
    """

    solver: Any
    form: str = "data"
    noise: Any = 0.0
    evaluations: int = 1


SAMPLERS: dict[str, Sampler] = {
    "ddim": Sampler(Exponential(1), "noise"),
    "dpm_solver_2": Sampler(Exponential(2), "noise", evaluations=2),
    "dpm_solver_3": Sampler(Exponential(3), "noise", evaluations=3),
    "dpm_solver++_2s": Sampler(Exponential(2), evaluations=2),
    "dpm_solver++_3s": Sampler(Exponential(3), evaluations=3),
    "dpm_solver++_2m": Sampler(ExponentialAdams(2, weights="mean")),
    "dpm_solver++_3m": Sampler(ExponentialAdams(3)),
    "deis_tab1": Sampler(ExponentialAdams(2, "time"), "noise"),
    "deis_tab2": Sampler(ExponentialAdams(3, "time"), "noise"),
    "deis_tab3": Sampler(ExponentialAdams(4, "time"), "noise"),
    "deis_rho2": Sampler(Lawson(diffrax.Heun()), "noise", evaluations=2),
    "deis_rho3": Sampler(Lawson(diffrax.Bosh3()), "noise", evaluations=3),
    "pndm": Sampler(ExponentialAdams(4, "time", weights="mean"), "noise"),
    "adams_2_corrected": Sampler(ExponentialAdams(2, corrector=True)),
    "adams_3_corrected": Sampler(ExponentialAdams(3, corrector=True)),
    "unipc_2": Sampler(ExponentialAdams(2, weights="B2", corrector=True)),
    "unipc_3": Sampler(ExponentialAdams(3, weights="B2", corrector=True)),
    "heun": Sampler(diffrax.Heun(), "velocity", evaluations=2),
    "rf_solver": Sampler(diffrax.Midpoint(), "velocity", evaluations=2),
    "ddpm": Sampler(Exponential(1), noise=1.0),
    "sde_dpm_solver++_2m": Sampler(ExponentialAdams(2, weights="mean"), noise=1.0),
    "sa_solver_3": Sampler(ExponentialAdams(3, corrector=True), noise=1.0),
    "er_sde_2": Sampler(ExponentialAdams(2), noise=er_sde_noise),
    "er_sde_3": Sampler(ExponentialAdams(3), noise=er_sde_noise),
    "euler_maruyama": Sampler(diffrax.Euler(), "velocity", 1.0),
}
"""A row each; a sampler of your own is another one.

`unipc_2` has $B_2(h) = e^h - 1$; with the exact integral in its place it is `adams_2_corrected`, UniPC with varying
coefficients. `rf_solver`, the second-order Taylor step of Wang et al. 2024 (arXiv 2411.04746) whose derivative is a
difference at half a step, is the midpoint rule. For the others see `nde.Exponential` and `nde.ExponentialAdams`.
"""
