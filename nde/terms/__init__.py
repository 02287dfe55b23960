"""What a differential equation is: its noise, how its integrals are read, its linear part, and what terms consist of.

Terms themselves are diffrax's (`diffrax.ODETerm`, `diffrax.ControlTerm`, `diffrax.MultiTerm`); no solver and no network
stands here.

- **Noise.** A diffusion declares its `nde.terms.NoiseKind`, by which solvers are chosen and refused
  (`nde.solvers.check_noise`); `nde.terms.diffusion_term` makes a term of it and a Brownian path.
- **Itô and Stratonovich.** `nde.to_ito` and `nde.to_stratonovich` turn an equation with diagonal noise from one reading
  into the other.
- **Semilinear equations.** `nde.terms.SemilinearTerm` keeps apart a linear part that exponential solvers solve exactly,
  as in the equations of diffusion models (`nde.diffusion_model_term`).
- **Controlled equations** whose steps go from knot to knot of their path: `nde.terms.KnotTerm`.
- **Log-ODEs.** `nde.terms.LogODEField` is the field of a controlled equation with its Lie brackets, for steps over
  whole windows of a path.
- **Integrals along a solution**, beside its state and out of the control of the error: `nde.terms.WithIntegrals`.
- **Inspection.** What drives a term, what a wrapped solver or a term turned in time wraps (`nde.terms.brownian_terms`,
  `nde.terms.unwrap_solver`, …): the only place that knows how diffrax nests them.
"""

from nde.terms.brownian_term import diffusion_term as diffusion_term
from nde.terms.inspect import (
    brownian_terms as brownian_terms,
    is_noise as is_noise,
    is_sub as is_sub,
    reads_state as reads_state,
    single_terms as single_terms,
    turned as turned,
    unwrap_solver as unwrap_solver,
    unwrap_time_direction as unwrap_time_direction,
)
from nde.terms.interpretation import (
    Interpretation as Interpretation,
    interpretation_of as interpretation_of,
    to_ito as to_ito,
    to_stratonovich as to_stratonovich,
)
from nde.terms.jaxpr_dependence import dependence as dependence, MIXED as MIXED
from nde.terms.knot_term import KnotTerm as KnotTerm, product as product
from nde.terms.log_ode import LogODEField as LogODEField
from nde.terms.noise import name_of as name_of, noise_kind as noise_kind, NoiseKind as NoiseKind
from nde.terms.quadrature import WithIntegrals as WithIntegrals, without_integrals as without_integrals
from nde.terms.semilinear import (
    AbstractVariables as AbstractVariables,
    scaled as scaled,
    SemilinearTerm as SemilinearTerm,
)
