"""Diffusion models and flows: how data become noise, what a network predicts of it, and the equations that sample.

A sampler is a product of four tables: a **schedule** (`nde.diffusion.AbstractSchedule`: variance preserving and
exploding, cosine, EDM, the straight line of flow matching, mean-reverting), a **prediction**
(`nde.diffusion.PREDICTIONS`, each of which is any other by `nde.diffusion.convert`), **times**
(`nde.diffusion.log_snr_times` and its siblings) and the **weights** of a solver (`nde.Exponential`,
`nde.ExponentialAdams`). What is solved, with any amount of noise between the probability-flow ODE and the reverse-
time SDE, is `nde.diffusion_model_term`.

Between two laws of which neither need be noise runs an **interpolant** (`nde.diffusion.AbstractInterpolant`); from a
standard normal one it is a schedule. `nde.DiffusionModel` and `nde.InterpolantModel` learn by either, with
`nde.objectives.Matching`.
"""

from nde.diffusion.interpolants import (
    AbstractInterpolant as AbstractInterpolant,
    BridgeInterpolant as BridgeInterpolant,
    EncodingDecodingInterpolant as EncodingDecodingInterpolant,
    LinearInterpolant as LinearInterpolant,
    TrigonometricInterpolant as TrigonometricInterpolant,
)
from nde.diffusion.kinetic import (
    fit_kinetic as fit_kinetic,
    kinetic_energy as kinetic_energy,
    KineticInterpolant as KineticInterpolant,
    separation as separation,
    squared_speed as squared_speed,
)
from nde.diffusion.mixture import GaussianMixture as GaussianMixture
from nde.diffusion.mixture_interpolant import MixtureInterpolant as MixtureInterpolant
from nde.diffusion.predictions import (
    check_prediction as check_prediction,
    convert as convert,
    converted as converted,
    PREDICTIONS as PREDICTIONS,
    thresholded as thresholded,
)
from nde.diffusion.samplers import er_sde_noise as er_sde_noise, Sampler as Sampler, SAMPLERS as SAMPLERS
from nde.diffusion.schedules import (
    AbstractSchedule as AbstractSchedule,
    CosineSchedule as CosineSchedule,
    EDMSchedule as EDMSchedule,
    LinearFlow as LinearFlow,
    MeanReverting as MeanReverting,
    SubVariancePreserving as SubVariancePreserving,
    VarianceExploding as VarianceExploding,
    VariancePreserving as VariancePreserving,
)
from nde.diffusion.term import diffusion_model_term as diffusion_model_term, noise_span as noise_span
from nde.diffusion.times import (
    karras_times as karras_times,
    log_snr_times as log_snr_times,
    uniform_times as uniform_times,
)
