"""Vector fields: Equinox modules `f(t, y, args=None)` that act on one state.

A field becomes a term of a differential equation by `diffrax.ODETerm(field)` (a drift), by
`nde.terms.diffusion_term` (a diffusion) or by `diffrax.ControlTerm(field, path)` (the field of a CDE). Fields know
nothing of data, and act on one example: `jax.vmap` stands outside. Their arrays are of JAX's default dtype; cast a
field to use another.

| field | right-hand side | state |
|---|---|---|
| `nde.fields.MLPField` | a network, of the time or not | array |
| `nde.fields.LinearMLPField` | linear, plus a network that starts at zero | array |
| `nde.fields.LTCField` | leaky states that gates of state and input pull, bounded; the input is its `args` | array |
| `nde.fields.GatedField` | a GRU in continuous time, bounded | array |
| `nde.fields.ConcatSquashField` | a network that time gates, for flows | array |
| `nde.fields.ResidualField` | a residual network that sees the time, and a class, in every layer | array |
| `nde.fields.MixerField` | the same of a small image, in patches | array |
| `nde.fields.HamiltonianField` | gradient of a learned energy, damping, forcing | pair `(q, p)` |
| `nde.fields.AugmentedField` | any field with room for more states | pair `(y, a)` |
| `nde.fields.KnownField` | your function, with bounded `nde.fields.Parameter`s | what the function takes |
| `nde.fields.Hybrid` | a known field plus a network, from zero, on chosen states | array |
| `nde.fields.LibraryField` | named candidate functions times learnable coefficients | array |
| `nde.fields.LogField` | any field of positive states, for their logarithms | array |
| `nde.fields.AffineField` | any field of states in their own units, for standardised ones | array |
| `nde.fields.StandardField` | any field in standard units | array |
| `nde.fields.DiagonalDiffusion` | each state's own noise: the diagonal, `(state,)` | array |
| `nde.fields.TimeDiffusion` | additive noise, its size a network of the time: the diagonal, `(state,)` | array |
| `nde.fields.LinearNoise` | noise in proportion to the state: the diagonal, `(state,)` | array |
| `nde.fields.GeneralDiffusion` | a bounded matrix, `(state, noise)` | array |
| `nde.fields.ContextField` | networks of the state and of an environment's context, which is its `args` | array |
| `nde.fields.TaylorField` | any field of a context, expanded about another one | what the field takes |
| `nde.fields.ControlledField` | a network of the state and of a path's value, which is its `args` | array |
| `nde.fields.CDEField` | a bounded matrix, `(state, path)` | array |
| `nde.fields.LinearCDEField` | linear, dense or of a structure, `(state, path)` | array |

Candidates for a `nde.fields.LibraryField`: `nde.fields.library`.

Known systems by name, with their parameters to be learned: the table of `nde.fields.systems`, such as
`nde.fields.lotka_volterra` and `nde.fields.one_compartment`. What is believed of a parameter before the data are seen:
`nde.fields.NormalPrior`, `nde.fields.LogNormalPrior`; of all of a model's, `nde.fields.log_prior`. Drift and diffusion
of the stable neural SDEs by name: `nde.fields.sde_pair`.

For those who build models of them: `nde.fields.check_field` (the output is a rate of change of the state). What a field
says of itself, through whatever wraps it: `nde.fields.state_names`, `nde.fields.parameter_values`,
`nde.fields.named_parameters`, `nde.fields.residual_rates`, `nde.fields.learned_term`.

What a diffusion says of its noise, and the terms made of it, are those of `nde.terms`, and go by these names too.
"""

from nde.fields.augmented import AugmentedField as AugmentedField
from nde.fields.candidates import Candidate as Candidate, Library as Library, library as library
from nde.fields.cde import CDEField as CDEField
from nde.fields.checks import check_field as check_field
from nde.fields.concat_squash import ConcatSquashField as ConcatSquashField
from nde.fields.conditioned import MixerField as MixerField, ResidualField as ResidualField
from nde.fields.context_field import ContextField as ContextField, TaylorField as TaylorField
from nde.fields.controlled import ControlledField as ControlledField
from nde.fields.coordinates import (
    AffineField as AffineField,
    LogField as LogField,
    StandardField as StandardField,
)
from nde.fields.described import (
    learned_term as learned_term,
    LearnedTerm as LearnedTerm,
    named_parameters as named_parameters,
    parameter_units as parameter_units,
    parameter_values as parameter_values,
    residual_rates as residual_rates,
    state_names as state_names,
)
from nde.fields.design import DesignField as DesignField
from nde.fields.diffusion import DiagonalDiffusion as DiagonalDiffusion
from nde.fields.draw import draw_parameters as draw_parameters
from nde.fields.gated import GatedField as GatedField
from nde.fields.general_diffusion import GeneralDiffusion as GeneralDiffusion
from nde.fields.hamiltonian import HamiltonianField as HamiltonianField
from nde.fields.hybrid import Hybrid as Hybrid
from nde.fields.known import KnownField as KnownField, ParameterValues as ParameterValues
from nde.fields.library_field import LibraryField as LibraryField
from nde.fields.linear_cde import LinearCDEField as LinearCDEField
from nde.fields.linear_mlp import LinearMLPField as LinearMLPField, silence_last_layer as silence_last_layer
from nde.fields.ltc import LTCField as LTCField
from nde.fields.mlp import MLPField as MLPField
from nde.fields.parameter import (
    has_prior as has_prior,
    inverse_softplus as inverse_softplus,
    log_prior as log_prior,
    Parameter as Parameter,
)
from nde.fields.path_scaled import PathScaledField as PathScaledField
from nde.fields.precision import in_precision as in_precision, InPrecision as InPrecision
from nde.fields.priors import (
    AbstractPrior as AbstractPrior,
    LogNormalPrior as LogNormalPrior,
    NormalPrior as NormalPrior,
)
from nde.fields.sde_pairs import SDE_KINDS as SDE_KINDS, sde_pair as sde_pair, SDEPair as SDEPair
from nde.fields.systems import (
    cart_pole as cart_pole,
    fitzhugh_nagumo as fitzhugh_nagumo,
    glycolysis as glycolysis,
    ignition as ignition,
    logistic as logistic,
    lorenz as lorenz,
    lotka_volterra as lotka_volterra,
    one_compartment as one_compartment,
    pendulum as pendulum,
    planar_quadrotor as planar_quadrotor,
    robertson as robertson,
    seir as seir,
    sir as sir,
    SYSTEMS as SYSTEMS,
    two_compartment as two_compartment,
    van_der_pol as van_der_pol,
    white_dwarf as white_dwarf,
)
from nde.fields.time_diffusion import LinearNoise as LinearNoise, TimeDiffusion as TimeDiffusion
from nde.solvers import check_noise as check_noise
from nde.terms import (
    diffusion_term as diffusion_term,
    Interpretation as Interpretation,
    noise_kind as noise_kind,
    NoiseKind as NoiseKind,
    to_ito as to_ito,
    to_stratonovich as to_stratonovich,
)
