"""One solve of an equation that a series drives."""

import dataclasses
from collections.abc import Callable
from typing import Any

import diffrax
import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from nde.models.numerics import Numerics, Solved
from nde.paths import SeriesPath
from nde.regularise import AbstractRegulariser
from nde.terms import KnotTerm


def solve_controlled(
    numerics: Numerics,
    field: Callable[..., Any],
    path: SeriesPath,
    y0: Array,
    args: PyTree[Any] = None,
    *,
    rows: Float[Array, " rows"] | None = None,
    regulariser: AbstractRegulariser | None = None,
    key: PRNGKeyArray | None = None,
) -> Solved:
    r"""$dy = f(t, y)\,dX(t)$ from `y0`, along the whole of a path through a series.

    With `numerics.steps_per_row` each piece of the path, from one of its knots to the next, is crossed in so many
    steps (`nde.terms.KnotTerm`): a rectilinear path has two pieces a row, the others one.

    Steps of an adaptive controller end at the knots of a path of straight pieces, see `stopping_at_knots`.

    **Arguments:** `field`: as that of `nde.NeuralCDE`; `path`: a `nde.paths.series_path`; `rows`: the times of the
    series that the path was made of, if the states at these are wanted.

    **Returns:** the state at the end, with a leading axis of one, or the states at `rows`, with a leading axis of them.

    **Raises:** as `nde.Numerics.solve`; with `numerics.steps_per_row`, `ValueError` for a solver that does not take
    products of a term alone, and for a regulariser that integrates over time.
    """
    options: dict[str, Any] = {"regulariser": regulariser, "key": key}
    if numerics.steps_per_row is None:
        numerics = stopping_at_knots(numerics, path)
        saveat = diffrax.SaveAt(t1=True) if rows is None else diffrax.SaveAt(ts=rows)
        term = diffrax.ControlTerm(field, path).to_ode()
        return numerics.solve(term, path.t0, path.t1, y0, args, saveat=saveat, **options)
    pieces, each = path.ts.shape[0] - 1, numerics.steps_per_row
    fixed = dataclasses.replace(
        numerics, steps_per_row=None, controller=diffrax.ConstantStepSize(), dt0=1 / each, max_steps=pieces * each
    )
    saveat = diffrax.SaveAt(t1=True) if rows is None else diffrax.SaveAt(t0=True, steps=True)
    end = np.asarray(pieces, np.promote_types(path.ts.dtype, np.float32))  # half precision counts to 2048
    solved = fixed.solve(KnotTerm(field, path), np.zeros_like(end), end, y0, args, saveat=saveat, **options)
    if rows is None:
        return solved
    stride = each * (pieces // (rows.shape[0] - 1))
    return solved._replace(ys=jax.tree.map(lambda ys: ys[::stride], solved.ys))


def stopping_at_knots(numerics: Numerics, path: SeriesPath) -> Numerics:
    """Numerics whose adaptive steps end at the knots of a path of straight pieces; others as they are.

    The slope of such a path jumps there. An estimate of the error looks at a few points of a step, and where these lie
    on pieces along which little happens, as the clock's of a rectilinear path, it is near zero however much lies
    between them. (Twelve random rows, rectilinear: an output of 2.40 for 1.14, at a tolerance of 1e-8.) A controller
    with stops of its own and one of given steps are the user's.
    """
    straight = isinstance(path, diffrax.LinearInterpolation)
    if not (straight and isinstance(numerics.controller, diffrax.PIDController)):
        return numerics
    stops = diffrax.ClipStepSizeController(numerics.controller, jump_ts=path.ts)
    return dataclasses.replace(numerics, controller=stops)
