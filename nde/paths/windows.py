"""The log-signatures of a path's windows, as the path that drives a log-ODE."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nde.paths.signatures import running_signatures, window_signatures
from nde.paths.tensors import flatten_levels, Levels, log_tensor


class RowWindows(eqx.Module):
    """Windows of `rows` rows of a series each; the last has what is left.

    **Raises:** `ValueError` for fewer rows than one.
    """

    rows: int = eqx.field(static=True)

    def __check_init__(self) -> None:
        if self.rows < 1:
            raise ValueError(f"RowWindows needs one row or more a window, but got {self.rows}.")

    def cut(
        self, path: diffrax.LinearInterpolation, depth: int, knots_per_row: int
    ) -> tuple[Float[Array, " ends"], Levels]:
        """The ends of the windows, the first one's start before them, and their signatures.

        **Raises:** `ValueError` if the series is shorter than a window.
        """
        knots = self.rows * knots_per_row
        rows = (len(path.ts) - 1) // knots_per_row + 1
        if self.rows >= rows:
            raise ValueError(
                f"a series of {rows} rows is shorter than a window, which has {self.rows} and the one before them; "
                "give it more rows, or a window fewer."
            )
        ends = jnp.append(path.ts[:-1:knots], path.ts[-1])
        return ends, window_signatures(path.ys, knots, depth)


class TimeWindows(eqx.Module):
    """`number` windows of `length` units of time each, from a series' first time on; past its end they are empty.

    **Raises:** `ValueError` for a length or a number that is not positive.
    """

    length: float = eqx.field(static=True)
    number: int = eqx.field(static=True)

    def __check_init__(self) -> None:
        if not (self.length > 0 and self.number >= 1):
            raise ValueError(
                f"TimeWindows needs length > 0 and number >= 1, but got length={self.length} and number={self.number}."
            )

    def cut(
        self, path: diffrax.LinearInterpolation, depth: int, knots_per_row: int
    ) -> tuple[Float[Array, " ends"], Levels]:
        """The ends of the windows, the first one's start before them, and their signatures.

        **Raises:** an error at run time if the series is longer than the windows together.
        """
        del knots_per_row
        reach = self.length * self.number
        last = eqx.error_if(
            path.ts[-1],
            path.ts[-1] - path.ts[0] > reach * (1 + 1e-5),
            f"a series is longer than {self.number} windows of {self.length:g}, {reach:g}; give it more of them.",
        )
        ends = jnp.minimum(path.ts[0] + self.length * jnp.arange(self.number + 1, dtype=last.dtype), last)
        ends = ends.at[-1].set(last)
        knots = jnp.sort(jnp.concatenate([path.ts, ends[1:-1]]))
        points = jax.vmap(path.evaluate)(knots)
        window = jnp.searchsorted(ends, knots[:-1], side="right")
        starts = jnp.concatenate([jnp.ones(1, bool), window[1:] != window[:-1]])
        running = running_signatures(points, depth, starts)
        # the line that first arrives at an end is the last one of its window
        lines = jnp.maximum(jnp.searchsorted(knots, ends[1:], side="left") - 1, 0)
        empty = ends[1:] <= ends[:-1]

        def of_windows(level: Array) -> Array:
            return jnp.where(jnp.reshape(empty, (-1,) + (1,) * (level.ndim - 1)), 0.0, level[lines])

        return ends, tuple(of_windows(level) for level in running)


def log_signature_path(
    path: diffrax.LinearInterpolation, windows: RowWindows | TimeWindows, depth: int, *, knots_per_row: int = 1
) -> diffrax.LinearInterpolation:
    """A path that is straight in each window of another, with its log-signature, flattened, as increment.

    **Arguments:** `path`: of straight lines; `windows`: where it is cut; `depth`: of the log-signatures;
    `knots_per_row`: how many knots of the path a row of the series has, two of a rectilinear one.

    **Raises:** as the windows; `TypeError` for a path that is not of straight lines.
    """
    if not isinstance(path, diffrax.LinearInterpolation):
        raise TypeError(
            "log-signatures are those of straight lines: a 'linear' or 'rectilinear' series_path, not a "
            f"{type(path).__name__}."
        )
    ends, signatures = windows.cut(path, depth, knots_per_row)
    logs = jax.vmap(lambda levels: flatten_levels(log_tensor(levels)))(signatures)

    # one after another: XLA's cumulative sum adds in an order that hangs on how many there are, and padding would
    # change the last bit
    def add(total, log):
        total = total + log
        return total, total

    nothing = jnp.zeros_like(logs[0])
    return diffrax.LinearInterpolation(ends, jnp.concatenate([nothing[None], jax.lax.scan(add, nothing, logs)[1]]))
