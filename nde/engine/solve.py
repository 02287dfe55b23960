"""`diffeqsolve`: the one function through which every model of nde is solved."""

from typing import Any

import diffrax
from jaxtyping import ArrayLike, PyTree


def diffeqsolve(
    terms: PyTree[diffrax.AbstractTerm],
    solver: diffrax.AbstractSolver,
    t0: Any,
    t1: Any,
    dt0: Any,
    y0: PyTree[ArrayLike],
    args: PyTree[Any] = None,
    **options: Any,
) -> diffrax.Solution:
    r"""Solve $dy = f(t, y)\,dx(t)$ from `t0` to `t1`, with the signature and the meaning of `diffrax.diffeqsolve`.

    It hands the call to diffrax, so every term, solver, controller, `SaveAt`, `Event` and adjoint of
    diffrax is accepted and every option means what diffrax's documentation says.

    **Arguments:** `terms`, `solver`, `t0`, `t1`, `dt0`, `y0`, `args` and the keywords of `diffrax.diffeqsolve`.

    **Returns:** a `diffrax.Solution`.

    **Raises:** what diffrax raises; with `throw=True`, its default, a failed solve is an error.

    **Limits:** a NaN at a constant step size is reported by diffrax as successful.

    **Source:** Kidger, *On Neural Differential Equations*, 2021 (diffrax).
    """
    return diffrax.diffeqsolve(terms, solver, t0, t1, dt0, y0, args, **options)
