"""The neural SDEs over the path of a series, the stable classes and a plain one: `name = "controlled_sde"`."""

from typing import ClassVar, Literal

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray
from pydantic import Field, PositiveFloat, PositiveInt

from nde.config.models.base import fixed_numerics, ModelSection, SeriesFacts
from nde.config.numerics import SolverConfig
from nde.fields import sde_pair
from nde.models import ControlledSDE
from nde.paths import Interpolation

TITLES = {
    "langevin": "Langevin SDE",
    "linear_noise": "linear noise SDE",
    "geometric": "geometric SDE",
    "plain": "plain neural SDE",
}


class ControlledSDEModel(ModelSection):
    """A `nde.models.ControlledSDE` of `state_size` states, with the fields of `nde.fields.sde_pair`.

    `kind` says which: a stable one, `langevin`, `linear_noise` or `geometric`, or `plain`. `width` and `depth` are
    those of each network's hidden layers. `noise` is the size of the noise to start from, in units of state over the
    longest series, and `rate` how fast the drift moves it; `bounded` puts the networks' outputs through tanh, which if
    left out only the geometric drift is; `interpolation` is as for a neural CDE. Its steps are fixed: `solver.dt0` is a
    hundredth of the longest series, if left out; `solver.name` is `euler` or `ito_milstein`.
    """

    name: Literal["controlled_sde"] = "controlled_sde"
    kind: Literal["langevin", "linear_noise", "geometric", "plain"] = "langevin"
    state_size: PositiveInt = 16
    width: PositiveInt = 32
    depth: PositiveInt = 1
    noise: float = Field(default=0.3, gt=0, lt=1)
    rate: PositiveFloat = 1.0
    bounded: bool | None = None
    interpolation: Interpolation = "hermite"

    title: ClassVar[str] = "controlled SDE"
    tasks: ClassVar[tuple[str, ...]] = ("classify",)
    default_solver: ClassVar[SolverConfig] = SolverConfig(name="euler")
    moves_end: ClassVar[bool] = False

    def called(self) -> str:
        return self.label or TITLES[self.kind]

    def build(self, facts: SeriesFacts, common: SolverConfig, *, key: PRNGKeyArray) -> ControlledSDE:
        solver = self.merged_solver(common, self.default_solver.model_copy(update={"dt0": facts.horizon / 100}))
        if not solver.is_fixed:
            raise ValueError("a controlled_sde takes fixed steps: give solver.dt0, and no solver.rtol and solver.atol")
        if solver.name not in ("euler", "ito_milstein"):
            raise ValueError(
                f"a controlled_sde is solved by solver.name = 'euler' or 'ito_milstein', not '{solver.name}': give its "
                "[[model]] a solver.name of its own"
            )
        if solver.adjoint not in (None, "checkpoint"):
            raise ValueError(f"a controlled_sde takes solver.adjoint = 'checkpoint', not '{solver.adjoint}'")
        numerics = fixed_numerics(solver, facts.until, noise=True)
        assert numerics.dt0 is not None
        initial_key, fields_key, readout_key = jax.random.split(key, 3)
        path_size = 1 + 2 * facts.channels
        sizes = (self.state_size, path_size, self.width, self.depth)
        pair = sde_pair(self.kind, *sizes, rate=self.rate, noise=self.noise, bounded=self.bounded, key=fields_key)
        return ControlledSDE(
            eqx.nn.MLP(path_size, self.state_size, self.width, 1, key=initial_key),
            pair.drift,
            pair.diffusion,
            eqx.nn.Linear(self.state_size, facts.classes, key=readout_key),
            geometric=pair.geometric,
            interpolation=self.interpolation,
            horizon=max(facts.until, numerics.dt0),
            time_scale=facts.horizon,
            numerics=numerics,
        )
