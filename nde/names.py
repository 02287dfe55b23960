"""The daily names: each is an attribute of `nde` itself, which imports this module when one is first asked for."""

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
from nde.diffusion import diffusion_model_term as diffusion_model_term
from nde.engine import (
    diffeqsolve as diffeqsolve,
    map_in_buckets as map_in_buckets,
)
from nde.fields import (
    AffineField as AffineField,
    AugmentedField as AugmentedField,
    CDEField as CDEField,
    ConcatSquashField as ConcatSquashField,
    ControlledField as ControlledField,
    DiagonalDiffusion as DiagonalDiffusion,
    GatedField as GatedField,
    GeneralDiffusion as GeneralDiffusion,
    HamiltonianField as HamiltonianField,
    Hybrid as Hybrid,
    KnownField as KnownField,
    LinearCDEField as LinearCDEField,
    LinearMLPField as LinearMLPField,
    LinearNoise as LinearNoise,
    LogField as LogField,
    LTCField as LTCField,
    MLPField as MLPField,
    Parameter as Parameter,
    sde_pair as sde_pair,
    StandardField as StandardField,
    TimeDiffusion as TimeDiffusion,
)
from nde.models import (
    ContinuousNormalizingFlow as ContinuousNormalizingFlow,
    ControlledSDE as ControlledSDE,
    EncoderDecoder as EncoderDecoder,
    LatentODE as LatentODE,
    LatentSDE as LatentSDE,
    LinearCDE as LinearCDE,
    LogNCDE as LogNCDE,
    LS4 as LS4,
    LTC as LTC,
    NeuralCDE as NeuralCDE,
    NeuralODE as NeuralODE,
    NeuralSDE as NeuralSDE,
    Numerics as Numerics,
    ObservedODE as ObservedODE,
)
from nde.objectives import (
    ELBO as ELBO,
    GaussianLikelihood as GaussianLikelihood,
    SDEMatching as SDEMatching,
    StudentTLikelihood as StudentTLikelihood,
    TrajectoryFit as TrajectoryFit,
)
from nde.paths import (
    BrownianGrid as BrownianGrid,
    SpaceSpaceLevyArea as SpaceSpaceLevyArea,
    VirtualBrownianTree as VirtualBrownianTree,
)
from nde.solvers import (
    Exponential as Exponential,
    ExponentialAdams as ExponentialAdams,
    Lawson as Lawson,
    Reversible as Reversible,
    Rex as Rex,
)
from nde.steppers import (
    Heuristics as Heuristics,
    HeuristicSpec as HeuristicSpec,
)
from nde.terms import to_ito as to_ito, to_stratonovich as to_stratonovich

Measure = HeuristicSpec
"""Its name until now."""
