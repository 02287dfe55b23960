"""What a series brings to an equation beside its start: constants, covariates, doses."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from nde.dtypes import as_floats
from nde.paths.doses import Doses
from nde.paths.step_path import jump_times, StepPath

Between = Literal["held", "next", "linear"]


class Inputs(eqx.Module):
    r"""What is given to $\dot y = f(t, y; p) + R(t)$ from outside: constants and covariates, read as `p.name`; doses.

    As `args` of a `nde.NeuralODE` it is solved with steps that end at every discontinuity: the times of doses, the ends
    of infusions, and the rows of covariates. A field sees the values at $t$ as a mapping of names, which is what a
    `nde.fields.KnownField` reads beside its parameters, and may replace these by.

    ```python
    >>> import jax.numpy as jnp, nde
    >>> drug = nde.KnownField(lambda t, y, p: -p.clearance / p.volume * y, {"clearance": nde.Parameter(2.0, lower=0)})
    >>> doses = nde.paths.Doses([0.0, 12.0], [100.0, 100.0], [0, 0], states=1)
    >>> inputs = nde.paths.Inputs(doses=doses, constants={"volume": 20.0})
    >>> ys = nde.NeuralODE(drug)(jnp.array([0.0, 12.0, 24.0]), jnp.zeros(1), inputs)  # before what is given then
    >>> [round(float(y), 2) for y in ys[:, 0]]
    [0.0, 30.13, 39.2]

    ```

    **Arguments of the constructor:**

    - `doses`: a `nde.paths.Doses`, in the units of the states.
    - `covariates`: paths by name, such as `nde.paths.covariate_path` makes; a path of one channel is read as a number.
    - `constants`: numbers or arrays by name.

    For a batch each leaf has a leading axis of series, of doses padded to equal numbers by infinite times.

    **A state at the time of a dose** is that before it.

    **Gradients** in amounts, durations, values *and times* are those of the solution: a time that moves moves a
    discontinuity. Doses at one time are given one after another, and their times move from there on: the derivative is
    the one-sided one where the order in which they are given matters.

    **Raises:** `ValueError` for a name that is both a constant and a covariate.
    """

    doses: Doses | None
    covariates: dict[str, Any]
    constants: dict[str, Array]

    def __init__(
        self,
        doses: Doses | None = None,
        *,
        covariates: Mapping[str, Any] | None = None,
        constants: Mapping[str, ArrayLike] | None = None,
    ):
        self.doses, self.covariates = doses, dict(covariates or {})
        self.constants = {name: jnp.asarray(as_floats(value)[0]) for name, value in (constants or {}).items()}
        twice = sorted(set(self.covariates) & set(self.constants))
        if twice:
            raise ValueError(f"Inputs has '{twice[0]}' among its covariates and among its constants; give it one name.")

    def at(self, t: ArrayLike, between: ArrayLike | None = None) -> dict[str, Array]:
        """The values of all covariates at `t`, and the constants, by name.

        **Arguments:** `between`: a time within the step, at which covariates are read that are held: a step that ends
        where they jump has not seen the jump.
        """
        held = t if between is None else between
        found = {}
        for name, path in self.covariates.items():
            value = path.evaluate(held if isinstance(path, StepPath) else t)
            found[name] = value[0] if jnp.shape(value) == (1,) else value
        return {**self.constants, **found}

    def jumps(self) -> list[Float[Array, " jumps"]]:
        """The times at which the doses, and each covariate in its order, jump or bend; infinite ones are none."""
        covariates = [jump_times(path.ts) for path in self.covariates.values() if _has_rows(path)]
        return covariates if self.doses is None else [self.doses.ts, *covariates]

    def jumping_at(self, times: Sequence[Float[Array, " jumps"]]) -> "Inputs":
        """The same inputs with their jumps at these times, given as by `jumps`; what bends bends where it did."""
        times, doses, covariates = list(times), self.doses, dict(self.covariates)
        if doses is not None:
            begin, end = jnp.split(times.pop(0), 2)
            at_once = doses.ends == doses.times
            doses = eqx.tree_at(lambda d: (d.times, d.ends), doses, (begin, jnp.where(at_once, begin, end)))
        rows = {name: path for name, path in self.covariates.items() if _has_rows(path)}
        for (name, path), moved in zip(rows.items(), times, strict=True):
            if isinstance(path, StepPath):
                covariates[name] = eqx.tree_at(lambda p: p.ts, path, jnp.concatenate([path.ts[:1], moved]))
        return eqx.tree_at(lambda x: (x.doses, x.covariates), self, (doses, covariates), is_leaf=lambda x: x is None)


def _has_rows(path: Any) -> bool:
    """Whether a covariate is one of rows, between which it jumps or bends, and not a smooth function."""
    return isinstance(path, diffrax.AbstractGlobalInterpolation)


class LinearRows(diffrax.AbstractGlobalInterpolation):
    """One channel, straight between its rows and constant outside them: what `covariate_path` makes if linear."""

    ts: Float[Array, " rows"]
    ys: Float[Array, " rows"]

    @property
    def ts_size(self) -> int:
        """The number of rows."""
        return self.ts.shape[0]

    def evaluate(self, t0: ArrayLike, t1: ArrayLike | None = None, left: bool = False) -> Float[Array, ""]:
        """The value at `t0`, or how much higher it is at `t1`."""
        del left  # it is continuous
        value = jnp.interp(t0, self.ts, self.ys)
        return value if t1 is None else jnp.interp(t1, self.ts, self.ys) - value


def covariate_path(ts: ArrayLike, values: ArrayLike, between: Between = "held") -> diffrax.AbstractGlobalInterpolation:
    """A covariate between its rows: the last value `held`, the `next` one, or `linear`; outside them the nearest row's.

    **Arguments:** `ts`: `(rows,)`, increasing, but for padding that repeats the last; `values`: `(rows,)`, NaN where
    missing.

    **Raises:** `ValueError` for another way or shapes that do not fit.
    """
    ts, values = as_floats(ts, values)
    if ts.ndim != 1 or values.shape != ts.shape:
        raise ValueError(f"covariate_path needs ts and values of shape (rows,), but got {ts.shape} and {values.shape}.")
    padding = jnp.append(False, ts[1:] == ts[:-1])
    values = jnp.where(padding, jnp.nan, values)
    if between == "held":
        first = values[jnp.argmax(~jnp.isnan(values))]  # before the first known row: its value
        return StepPath(ts, jnp.where(jnp.arange(len(ts)) == 0, first, values)[:, None])
    if between == "next":
        later = _next_known(values)
        return StepPath(ts, jnp.where(padding, jnp.nan, jnp.append(later[1:], later[-1:]))[:, None])
    if between == "linear":
        return LinearRows(ts, _filled(ts, values))
    raise ValueError(f"covariate_path's between is 'held', 'next' or 'linear', but got {between!r}.")


def _next_known(values: Array) -> Array:
    """Each value, or the next known one; after the last known the last."""

    def step(after, value):
        now = jnp.where(jnp.isnan(value), after, value)
        return now, now

    last = values[len(values) - 1 - jnp.argmax(~jnp.isnan(values[::-1]))]
    return jax.lax.scan(step, last, values, reverse=True)[1]


def _filled(ts: Array, values: Array) -> Array:
    known = ~jnp.isnan(values)
    order = jnp.argsort(~known, stable=True)  # the known rows first; the others repeat the last of them
    count = jnp.maximum(known.sum(), 1)
    place = jnp.minimum(jnp.arange(len(ts)), count - 1)
    rows = order[place]
    return jnp.interp(ts, ts[rows], values[rows])
