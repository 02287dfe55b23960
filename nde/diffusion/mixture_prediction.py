"""The exact predictions of a mixture of Gaussians."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from nde.diffusion.predictions import check_prediction
from nde.diffusion.schedules import AbstractSchedule
from nde.dtypes import as_floats


class MixturePrediction(eqx.Module):
    r"""The function `(t, x, args)` that a perfect network would be: see `nde.diffusion.GaussianMixture.prediction`.

    With `chosen` components and a `scale` that of `nde.diffusion.GaussianMixture.guided`.
    """

    mixture: Any
    schedule: AbstractSchedule
    predicts: str = eqx.field(static=True)
    chosen: Bool[Array, " components"] | None
    scale: Any

    def __check_init__(self):
        check_prediction("GaussianMixture", self.predicts)

    def __call__(self, t: Any, x: ArrayLike, args: Any = None) -> Float[Array, " size"]:
        """The prediction at one state; `args` is not used."""
        del args
        mixture, point = self.mixture.matched(x)
        law = mixture.marginal(self.schedule, t)
        log_joint = law.log_joint(point)
        share = jax.nn.softmax(log_joint)
        if self.chosen is not None:
            # One set of components, two sets of shares: guidance costs no second evaluation.
            of_class = jax.nn.softmax(jnp.where(self.chosen, log_joint, -jnp.inf))
            share = share + jnp.asarray(self.scale, share.dtype) * (of_class - share)
        return (share @ self._of_components(t, mixture, law, point)).astype(as_floats(x)[0].dtype)

    def _of_components(
        self, t: Any, mixture: Any, law: Any, x: Float[Array, " size"]
    ) -> Float[Array, "components size"]:
        """The prediction of each component alone."""
        alpha, sigma, alpha_rate, sigma_rate = (
            jnp.asarray(of_t, x.dtype)
            for of_t in (self.schedule.alpha(t), self.schedule.sigma(t), *self.schedule.rates(t))
        )
        pull = law.along_axes(x[None] - law.means) / law.variances
        score = -law.from_axes(pull)
        if self.predicts == "score":
            return score
        if self.predicts == "noise":
            return -sigma * score
        if self.predicts == "data":
            return mixture.means + law.from_axes(alpha * mixture.variances * pull)
        # The two parts of the velocity may cancel, far from the mean altogether: added before they meet the state.
        spread = alpha_rate * alpha * mixture.variances + sigma_rate * sigma
        return alpha_rate * (mixture.means - centre_of(self.schedule, x.dtype)) + law.from_axes(spread * pull)


def centre_of(schedule: AbstractSchedule, dtype: Any) -> Float[Array, "1 size"]:
    """The centre of a schedule as a row, zero if it has none."""
    return jnp.zeros((1, 1), dtype) if schedule.centre is None else jnp.asarray(schedule.centre, dtype)[None]
