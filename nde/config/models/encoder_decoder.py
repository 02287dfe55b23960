"""A causal forecaster of an encoder and a decoder: `name = "encoder_decoder"`."""

from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import jax
import pydantic
from jaxtyping import PRNGKeyArray
from pydantic import Field, NonNegativeInt, PositiveInt

from nde.config.models.base import fixed_numerics, ModelSection, SeriesFacts
from nde.config.models.latent_sde import LIKELIHOODS
from nde.config.numerics import SolverConfig
from nde.models import CDEEncoder, EncoderDecoder, GRUD, GRUDeltaT, ODERNN, SequenceEncoder


class EncoderRow(NamedTuple):
    """A row of `ENCODERS`: what it is called in tables, and how it is made of the facts, its size, its width, a key."""

    title: str
    make: Callable[[SeriesFacts, int, int, PRNGKeyArray], SequenceEncoder]


def _ode_rnn(facts: SeriesFacts, size: int, width: int, key: PRNGKeyArray) -> ODERNN:
    return ODERNN(facts.channels, size, width=width, key=key)


def _cde(facts: SeriesFacts, size: int, width: int, key: PRNGKeyArray) -> CDEEncoder:
    return CDEEncoder(facts.channels, size, width=width, time_scale=facts.horizon, key=key)


def _gru(facts: SeriesFacts, size: int, width: int, key: PRNGKeyArray) -> GRUDeltaT:
    del width  # it has no network but the GRU
    return GRUDeltaT(facts.channels, size, None, gap_scale=facts.horizon / facts.observations, key=key)


def _gru_d(facts: SeriesFacts, size: int, width: int, key: PRNGKeyArray) -> GRUD:
    del width
    return GRUD(facts.channels, size, None, gap_scale=facts.horizon / facts.observations, key=key)


ENCODERS = {
    "ode_rnn": EncoderRow("ODE-RNN", _ode_rnn),
    "cde": EncoderRow("CDE", _cde),
    "gru": EncoderRow("GRU-Δt", _gru),
    "gru_d": EncoderRow("GRU-D", _gru_d),
}
"""The encoders that a config can name. To add one: a model with `hidden_size` and causal `states`, and a row here."""


class EncoderDecoderModel(ModelSection):
    """A `nde.models.EncoderDecoder`: the `encoder` reads a series, the `decoder` runs on from what it has read.

    `encoder`: one of `ENCODERS`, of `encoder_size` states, its own network `encoder_width` wide. `decoder`: a latent
    `ode` or `sde`, whose `diffusion_scale` is that to start from. Its steps are fixed: `solver.dt0` is a hundredth of
    the longest series, if left out. `[solver]` is the decoder's; the encoder takes a few steps from row to row. Of a
    row that a table holds, `nde predict` says what was forecast of it before it was read.
    """

    name: Literal["encoder_decoder"] = "encoder_decoder"
    encoder: str = "ode_rnn"
    decoder: Literal["ode", "sde"] = "sde"
    state_size: PositiveInt = 10
    width: NonNegativeInt = 16
    depth: PositiveInt = 1
    encoder_size: PositiveInt = 32
    encoder_width: PositiveInt = 32
    diffusion_scale: float = Field(default=0.3, gt=0, lt=2)
    likelihood: Literal["student_t", "gaussian"] = "student_t"

    tasks: ClassVar[tuple[str, ...]] = ("forecast",)
    default_solver: ClassVar[SolverConfig] = SolverConfig(name="euler")
    moves_end: ClassVar[bool] = False

    @pydantic.field_validator("encoder")
    @classmethod
    def _check_encoder(cls, encoder: str) -> str:
        if encoder not in ENCODERS:
            raise ValueError(f"there is no encoder '{encoder}'; the encoders are {', '.join(ENCODERS)}")
        return encoder

    def called(self) -> str:
        return self.label or f"{ENCODERS[self.encoder].title} to {self.decoder.upper()}"

    def penalties(self, common: SolverConfig) -> None:
        """None: a path that starts anew at every row has no solve to be penalised."""

    def build(self, facts: SeriesFacts, common: SolverConfig, *, key: PRNGKeyArray) -> EncoderDecoder:
        noise = self.decoder == "sde"
        default = self.default_solver.model_copy(update={"dt0": facts.horizon / 100})
        solver = self.merged_solver(common, default)
        if not solver.is_fixed:
            raise ValueError("an encoder_decoder takes fixed steps: give solver.dt0, and no solver.rtol or solver.atol")
        if noise and solver.name != "euler":
            raise ValueError(f"decoder = 'sde' is solved by solver.name = 'euler', not by '{solver.name}'")
        numerics = fixed_numerics(solver, facts.until, noise=noise)
        assert numerics.dt0 is not None
        encoder_key, own_key = jax.random.split(key)
        return EncoderDecoder(
            ENCODERS[self.encoder].make(facts, self.encoder_size, self.encoder_width, encoder_key),
            facts.channels,
            self.state_size,
            width=self.width,
            depth=self.depth,
            diffusion_scale=self.diffusion_scale if noise else None,
            likelihood=LIKELIHOODS[self.likelihood](facts.channels),
            horizon=max(facts.until, numerics.dt0),
            numerics=numerics,
            key=own_key,
        )
