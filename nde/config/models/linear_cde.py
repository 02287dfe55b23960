"""The linear CDE of structured matrices: `name = "linear_cde"`."""

import math
from typing import ClassVar, Literal

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray
from pydantic import PositiveFloat, PositiveInt

from nde.config.models.base import ModelSection, SeriesFacts
from nde.config.numerics import SolverConfig
from nde.fields import LinearCDEField
from nde.models import LinearCDE

Structure = Literal["diagonal", "block_diagonal", "diagonal_plus_low_rank", "dense"]


class LinearCDEModel(ModelSection):
    """A `nde.models.LinearCDE` of `state_size` states, whose matrices have a `structure`, and a network as its readout.

    `block_size` is that of a block-diagonal structure, `rank` that of one of low rank; `scale` is of the initial
    matrices, and `width` of the readout's and the initial network's hidden layer. Over the longest series the clock and
    each count of observations run to about one, and values are divided by the root of how often a channel is observed.
    It is solved by a scan: `[solver]` and `[regularise]` say nothing to it.
    """

    name: Literal["linear_cde"] = "linear_cde"
    state_size: PositiveInt = 32
    structure: Structure = "block_diagonal"
    block_size: PositiveInt = 4
    rank: PositiveInt = 1
    scale: PositiveFloat = 0.3
    width: PositiveInt = 32
    discretisation: Literal["exact", "euler"] = "exact"

    title: ClassVar[str] = "linear CDE"
    tasks: ClassVar[tuple[str, ...]] = ("classify",)

    def build(self, facts: SeriesFacts, common: SolverConfig, *, key: PRNGKeyArray) -> LinearCDE:
        if self.structure == "block_diagonal" and self.state_size % self.block_size:
            raise ValueError(
                f"a linear_cde has blocks that fill its state: block_size = {self.block_size} does not divide "
                f"state_size = {self.state_size}"
            )
        initial_key, field_key, readout_key = jax.random.split(key, 3)
        path_size, size, width = 1 + 2 * facts.channels, self.state_size, self.width
        blocks = {"dense": size, "block_diagonal": self.block_size}.get(self.structure, 1)
        field = LinearCDEField(
            size,
            path_size,
            block_size=blocks,
            rank=self.rank if self.structure == "diagonal_plus_low_rank" else 0,
            scale=self.scale,
            bias_scale=self.scale,
            key=field_key,
        )
        norm = eqx.nn.LayerNorm(size)  # the state's size is an exponential, which says little of a class
        network = eqx.nn.MLP(size, facts.classes, width, 1, key=readout_key)
        # The state is an exponential of the path: steps of either sign add up like the root of their number.
        values = 1 / math.sqrt(max(facts.observations, 1.0))
        scales = [1 / facts.horizon, *[values] * facts.channels, *[1 / facts.observations] * facts.channels]
        return LinearCDE(
            eqx.nn.MLP(path_size, size, width, 1, key=initial_key),
            field,
            eqx.nn.Sequential([norm, network]),
            scales=scales,
            discretisation=self.discretisation,
        )
