"""`[observe]` noise and limits: which law of `nde.objectives.likelihoods` each channel has."""

from collections.abc import Mapping, Sequence

from nde.objectives import (
    AbstractLikelihood,
    BernoulliLikelihood,
    CensoredLikelihood,
    ChannelLikelihood,
    CombinedLikelihood,
    GaussianLikelihood,
    LogNormalLikelihood,
    PoissonLikelihood,
    ScaledLikelihood,
)

NOISES = ("normal", "additive", "proportional", "combined", "log_normal", "poisson", "bernoulli")

DISCRETE = ("poisson", "bernoulli")
"""Laws of counts and answers, which have no unit, no scale and no limit of quantification."""


def build_likelihood(
    noise: Mapping[str, str], scale: float, units: Sequence[float], limits: tuple[Mapping[str, float], ...]
) -> AbstractLikelihood:
    """The law of a row of values, of channels in the order of `noise`.

    **Arguments:** `noise`: channel to law; `scale`: what scales start from, in units of each channel; `units`: those
    units; `limits`: of quantification below and above, channel to limit.
    """
    names = list(noise.values())
    if set(names) <= {"normal", "additive"}:
        law: AbstractLikelihood = ScaledLikelihood(GaussianLikelihood(len(names), scale=scale), unit=units)
    else:
        law = ChannelLikelihood([_law(name, scale, unit) for name, unit in zip(names, units, strict=True)])
    if not any(limits):
        return law
    below, above = ([limit.get(channel) for channel in noise] for limit in limits)
    return CensoredLikelihood(law, below=below, above=above)


def _law(name: str, scale: float, unit: float) -> AbstractLikelihood:
    if name == "poisson":
        return PoissonLikelihood()
    if name == "bernoulli":
        return BernoulliLikelihood()
    laws = {
        "proportional": lambda: CombinedLikelihood(1, additive=None, proportional=scale),
        "combined": lambda: CombinedLikelihood(1, additive=scale, proportional=scale),
        "log_normal": lambda: LogNormalLikelihood(1, scale=scale),
    }
    law = laws.get(name, lambda: GaussianLikelihood(1, scale=scale))()
    return ScaledLikelihood(law, unit=[unit])
