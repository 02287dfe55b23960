r"""A closed form straight from noisy series, by the weak form of their equation."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from nde.fields import Library
from nde.report.sparse.fit import Criterion, sparse_fit
from nde.report.sparse.form import ClosedForm
from nde.report.sparse.regression import THRESHOLDS

POWER = 4
"""Of the test functions; their first three derivatives vanish at the ends, so that sums come near integrals."""


def weak_closed_form(
    library: Library,
    times: Float[ArrayLike, "*trajectories rows"],
    values: Float[ArrayLike, "*trajectories rows states"],
    *,
    known: Callable[[np.ndarray], Any] | None = None,
    criterion: Criterion = "bic",
    thresholds: Sequence[float] = THRESHOLDS,
    width: float = 0.4,
    windows: int | None = None,
) -> ClosedForm:
    r"""The terms of $\dot y = k(y) + \Theta(y)\,\Xi$ from noisy values of $y$, without their derivatives.

    With test functions $\phi$ that vanish at the ends of a window, integration by parts moves the derivative onto them:
    $-\int \phi' y\,dt - \int \phi\,k(y)\,dt = \int \phi\,\Theta(y)\,dt\;\Xi$, a linear equation for each window, in
    which the noise is averaged. Integrals are sums by the trapezoidal rule over the rows; the windows' errors, which
    overlap, are decorrelated to first order in the noise, by the covariance of $-\sum \phi' \varepsilon$.

    **Arguments:**

    - `library`: the candidates, of all the states.
    - `times`: `(rows,)` or `(trajectories, rows)`, increasing; `values`: with an entry for each input of the
      library.
    - `known`: the part of the rates that is known, a function of `(rows, states)`; none if `None`.
    - `criterion`, `thresholds`: as of `nde.report.closed_form`.
    - `width`: of a window, as a share of a trajectory's span; `windows`: how many, evenly spread, half as many as rows
      if `None`. Wide windows average more noise, and see less of what is fast.

    **Returns:** a `nde.report.ClosedForm` of the rates of all states, named as the library's inputs.

    **Raises:** `ValueError` for shapes that do not go together, values that are not finite, times that do not increase,
    or windows that hold fewer than five rows.

    **Limits:** every state must be seen in each row. A candidate that is not linear has a bias that grows with the
    square of the noise.

    **Source:** Messenger & Bortz, *Weak SINDy: Galerkin-based data-driven model selection*, Multiscale Modeling &
    Simulation 2021, arXiv 2005.04339.
    """
    t, y = np.asarray(times, np.float64), np.asarray(values, np.float64)
    if y.ndim < 2 or t.shape != y.shape[:-1] or y.shape[-1] != len(library.inputs):
        raise ValueError(
            f"weak_closed_form needs times (…, rows) and values (…, rows, states) of the states "
            f"{', '.join(library.inputs)}, but got the shapes {t.shape} and {y.shape}."
        )
    t, y = t.reshape(-1, t.shape[-1]), y.reshape(-1, *y.shape[-2:])
    if not np.isfinite(y).all() or not (np.diff(t, axis=1) > 0).all():
        raise ValueError("weak_closed_form needs finite values at increasing times.")
    parts = [_weak_rows(library, *one, known, width, windows) for one in zip(t, y, strict=True)]
    groups = np.repeat(np.arange(len(parts)), [len(part[1]) for part in parts])
    matrix, rates = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    return sparse_fit(library, matrix, rates, library.inputs, criterion, thresholds, None, groups)


def _weak_rows(
    library: Library,
    t: np.ndarray,
    y: np.ndarray,
    known: Callable[[np.ndarray], Any] | None,
    width: float,
    windows: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The linear equations of one trajectory, with errors that are alike and independent."""
    tests, slopes = _test_functions(t, width, len(t) // 2 if windows is None else windows)
    steps = np.diff(t)
    weights = 0.5 * (np.append(steps, 0.0) + np.append(0.0, steps))
    tests, slopes = tests * weights, slopes * weights
    left = -slopes @ y
    if known is not None:
        left = left - tests @ np.asarray(known(y))
    # the eigenvectors of nothing but rounding, of windows that are sums of others, are left out
    size, vectors = np.linalg.eigh(slopes @ slopes.T)
    kept = size > 1e-8 * size.max()
    whiten = (vectors[:, kept] / np.sqrt(size[kept])).T
    return whiten @ tests @ library(y), whiten @ left


def _test_functions(t: np.ndarray, width: float, windows: int) -> tuple[np.ndarray, np.ndarray]:
    r"""$\phi(t) = (1 - u^2)^p$, with $u$ from -1 to 1 over a window, and $\phi'(t)$, a row a window, at the rows."""
    half = 0.5 * width * (t[-1] - t[0])
    middles = np.linspace(t[0] + half, t[-1] - half, max(windows, 1))
    u = (t - middles[:, None]) / half
    inside = np.abs(u) < 1
    if not 0 < width <= 1 or inside.sum(1).min() < 5:
        raise ValueError(
            f"weak_closed_form needs windows of at least five rows, as a share in (0, 1] of the span, but width = "
            f"{width:g} of {len(t)} rows holds {int(inside.sum(1).min())}."
        )
    bump = np.where(inside, 1 - u**2, 0.0)
    return bump**POWER, -2 * POWER * u * bump ** (POWER - 1) / half
