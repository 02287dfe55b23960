"""What is given to the series of a panel, as padded arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nde.paths import Between, covariate_path, Doses, Inputs


@dataclass(frozen=True)
class SeriesInputs:
    """Doses, constants and covariates of the series of a panel, padded to equal numbers; times as those of the panel.

    - `states`: the names of the states that doses are given into, by index.
    - `times`: `(series, doses)`, infinite where a series has fewer.
    - `amounts`, `durations`, `given`: `(series, doses)`; `given` is the index of the state.
    - `resets`: `(series, doses)`, where the state is set to the amount; `None` if nowhere.
    - `constants`: by name, `(series,)`.
    - `covariate_times`: `(series, rows)`, increasing, and repeating the last where a series has fewer rows; `None`
      without covariates.
    - `covariates`: by name, `(series, rows)`, NaN where missing; `ways`: how each is read between rows.
    - `notes`: what there is to say of them.

    Indexed by series, as a `nde.data.Panel`. `batched` makes it the inputs of a `nde.NeuralODE`.
    """

    states: tuple[str, ...]
    times: Float[np.ndarray, "series doses"]
    amounts: Float[np.ndarray, "series doses"]
    durations: Float[np.ndarray, "series doses"]
    given: Int[np.ndarray, "series doses"]
    resets: Bool[np.ndarray, "series doses"] | None = None
    constants: Mapping[str, Float[np.ndarray, " series"]] = field(default_factory=dict)
    covariate_times: Float[np.ndarray, "series rows"] | None = None
    covariates: Mapping[str, Float[np.ndarray, "series rows"]] = field(default_factory=dict)
    ways: Mapping[str, Between] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, series: Sequence[int] | np.ndarray) -> "SeriesInputs":
        chosen = np.asarray(series, dtype=int)
        return replace(
            self,
            times=self.times[chosen],
            amounts=self.amounts[chosen],
            durations=self.durations[chosen],
            given=self.given[chosen],
            resets=None if self.resets is None else self.resets[chosen],
            constants={name: x[chosen] for name, x in self.constants.items()},
            covariate_times=None if self.covariate_times is None else self.covariate_times[chosen],
            covariates={name: x[chosen] for name, x in self.covariates.items()},
        )

    def names(self) -> tuple[str, ...]:
        """Constants and covariates, by name."""
        return (*self.constants, *self.covariates)

    @property
    def has_doses(self) -> bool:
        """Whether anything is given."""
        return self.times.shape[1] > 0

    def units(self, series: Sequence[int] | np.ndarray) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation, one where that is zero, of each constant and covariate of some series."""
        found = {}
        for name, values in {**self.constants, **self.covariates}.items():
            chosen = np.asarray(values)[np.asarray(series, dtype=int)]
            mean, spread = float(np.nanmean(chosen)), float(np.nanstd(chosen))
            found[name] = mean, spread if spread > 0 else 1.0
        return found

    def padded(self, doses: int, rows: int) -> "SeriesInputs":
        """The same with so many doses and rows of covariates, as many or more: what is added gives and changes nothing.

        Covariates stay out where there are none.
        """
        more = ((0, 0), (0, doses - self.times.shape[1]))
        arrays = {name: np.pad(getattr(self, name), more) for name in ("amounts", "durations", "given")}
        times = self.covariate_times
        after = ((0, 0), (0, 0 if times is None else rows - times.shape[1]))
        return replace(
            self,
            **arrays,
            times=np.pad(self.times, more, constant_values=np.inf),
            resets=None if self.resets is None else np.pad(self.resets, more),
            covariate_times=None if times is None else np.pad(times, after, mode="edge"),
            covariates={name: np.pad(x, after, constant_values=np.nan) for name, x in self.covariates.items()},
        )

    def batched(
        self, location: Float[np.ndarray, " state"] | None = None, scale: Float[np.ndarray, " state"] | None = None
    ) -> Inputs:
        r"""The inputs of all series, each leaf with a leading axis of series: what `jax.vmap` maps over.

        **Arguments:** `location`, `scale`: $m$ and $s$ of what is solved for, $y = m + s z$, each `(state,)`: a dose
        $a$ then moves $z$ by $a / s$, and a reset sets it to $(a - m) / s$. Own units without them.
        """
        count = len(self.states)
        location = np.zeros(count) if location is None else np.asarray(location)
        scale = np.ones(count) if scale is None else np.asarray(scale)
        doses = None
        if self.has_doses:
            into = self.given[..., None] == np.arange(count)
            resets = np.zeros(into.shape, bool) if self.resets is None else into & self.resets[..., None]
            moved = np.where(resets, self.amounts[..., None] - location, self.amounts[..., None]) / scale
            amounts = np.where(into, moved, 0.0)
            whether = None if self.resets is None else jnp.asarray(resets)
            times, durations = jnp.asarray(self.times), jnp.asarray(self.durations)
            doses = jax.vmap(_doses)(times, jnp.asarray(amounts), durations, whether)
        rows = jnp.zeros((len(self), 0)) if self.covariate_times is None else jnp.asarray(self.covariate_times)
        paths = {
            name: jax.vmap(partial(covariate_path, between=self.ways[name]))(rows, jnp.asarray(values))
            for name, values in self.covariates.items()
        }
        return Inputs(doses, covariates=paths, constants=self.constants)


def _doses(times: Array, amounts: Array, durations: Array, resets: Array | None) -> Doses:
    return Doses(times, amounts, durations=durations, resets=resets)
