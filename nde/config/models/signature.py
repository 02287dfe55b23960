"""A linear model of a series' signature: `name = "signature"`."""

from typing import ClassVar, Literal

from jaxtyping import PRNGKeyArray
from pydantic import PositiveInt

from nde.config.models.base import ModelSection, SeriesFacts
from nde.config.numerics import SolverConfig
from nde.models import SignatureRegression


class SignatureModel(ModelSection):
    """A `nde.models.SignatureRegression` of words of up to `depth` letters; with `counts`, those of observations too.

    Its features are fixed and its logits linear in them: the least that a model of paths has to beat. It has no
    equation: `[solver]` and `[regularise]` say nothing to it.
    """

    name: Literal["signature"] = "signature"
    depth: PositiveInt = 2
    counts: bool = True

    title: ClassVar[str] = "signature regression"
    tasks: ClassVar[tuple[str, ...]] = ("classify",)

    def build(self, facts: SeriesFacts, common: SolverConfig, *, key: PRNGKeyArray) -> SignatureRegression:
        return SignatureRegression(
            facts.channels,
            facts.classes,
            self.depth,
            time_scale=facts.horizon,
            counts=self.counts,
            count_scale=max(facts.observations, 1.0),
        )
