"""nde: neural differential equations in JAX.

Data make paths; fields and paths make terms; the engine solves terms; a model wraps that; an objective scores it;
training improves it. The daily names are here; each layer's own overview is the docstring of its folder:
[`nde.data`][], [`nde.fields`][], [`nde.paths`][], [`nde.engine`][], [`nde.models`][], [`nde.objectives`][],
[`nde.train`][], [`nde.report`][], and, for what the command line does, [`nde.config`][] and [`nde.runs`][].

Terms, solvers, step-size controllers, adjoints, paths and what else a solve needs are diffrax's own, under the same
names: what its documentation says of `diffrax.Tsit5` holds for `nde.Tsit5`.
"""

from importlib.metadata import version

from diffrax import (
    BacksolveAdjoint as BacksolveAdjoint,
    backward_hermite_coefficients as backward_hermite_coefficients,
    Bosh3 as Bosh3,
    BrownianIncrement as BrownianIncrement,
    ClipStepSizeController as ClipStepSizeController,
    ConstantStepSize as ConstantStepSize,
    ControlTerm as ControlTerm,
    CubicInterpolation as CubicInterpolation,
    DirectAdjoint as DirectAdjoint,
    Dopri5 as Dopri5,
    Dopri8 as Dopri8,
    Euler as Euler,
    EulerHeun as EulerHeun,
    Event as Event,
    ForwardMode as ForwardMode,
    GeneralShARK as GeneralShARK,
    HalfSolver as HalfSolver,
    Heun as Heun,
    ImplicitAdjoint as ImplicitAdjoint,
    ImplicitEuler as ImplicitEuler,
    ItoMilstein as ItoMilstein,
    KenCarp3 as KenCarp3,
    KenCarp4 as KenCarp4,
    KenCarp5 as KenCarp5,
    Kvaerno3 as Kvaerno3,
    Kvaerno4 as Kvaerno4,
    Kvaerno5 as Kvaerno5,
    LeapfrogMidpoint as LeapfrogMidpoint,
    LinearInterpolation as LinearInterpolation,
    Midpoint as Midpoint,
    MultiTerm as MultiTerm,
    ODETerm as ODETerm,
    PIDController as PIDController,
    Ralston as Ralston,
    RecursiveCheckpointAdjoint as RecursiveCheckpointAdjoint,
    RESULTS as RESULTS,
    ReversibleHeun as ReversibleHeun,
    SaveAt as SaveAt,
    SEA as SEA,
    SemiImplicitEuler as SemiImplicitEuler,
    ShARK as ShARK,
    SlowRK as SlowRK,
    Solution as Solution,
    SpaceTimeLevyArea as SpaceTimeLevyArea,
    SpaceTimeTimeLevyArea as SpaceTimeTimeLevyArea,
    SPaRK as SPaRK,
    SRA1 as SRA1,
    steady_state_event as steady_state_event,
    StepTo as StepTo,
    StratonovichMilstein as StratonovichMilstein,
    SubSaveAt as SubSaveAt,
    Tsit5 as Tsit5,
)

from nde.adjoints import (
    CheckpointAdjoint as CheckpointAdjoint,
    ContinuousAdjoint as ContinuousAdjoint,
    ReversibleAdjoint as ReversibleAdjoint,
)
from nde.engine import (
    diffeqsolve as diffeqsolve,
    Heuristics as Heuristics,
    map_in_buckets as map_in_buckets,
    Measure as Measure,
)
from nde.fields import (
    AugmentedField as AugmentedField,
    CDEField as CDEField,
    ConcatSquashField as ConcatSquashField,
    DiagonalDiffusion as DiagonalDiffusion,
    GatedField as GatedField,
    GeneralDiffusion as GeneralDiffusion,
    HamiltonianField as HamiltonianField,
    Hybrid as Hybrid,
    KnownField as KnownField,
    LinearCDEField as LinearCDEField,
    LinearMLPField as LinearMLPField,
    LogField as LogField,
    MLPField as MLPField,
    Parameter as Parameter,
    StandardField as StandardField,
    to_ito as to_ito,
    to_stratonovich as to_stratonovich,
)
from nde.models import (
    ContinuousNormalizingFlow as ContinuousNormalizingFlow,
    LatentSDE as LatentSDE,
    NeuralCDE as NeuralCDE,
    NeuralODE as NeuralODE,
    NeuralSDE as NeuralSDE,
    ObservedODE as ObservedODE,
)
from nde.objectives import (
    ELBO as ELBO,
    GaussianLikelihood as GaussianLikelihood,
    StudentTLikelihood as StudentTLikelihood,
)
from nde.paths import (
    BrownianGrid as BrownianGrid,
    SpaceSpaceLevyArea as SpaceSpaceLevyArea,
    VirtualBrownianTree as VirtualBrownianTree,
)
from nde.solvers import diffusion_model_term as diffusion_model_term, Reversible as Reversible, Rex as Rex

__version__ = version("nde")
