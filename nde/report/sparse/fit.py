"""A closed form of rates that are given at states."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from nde.fields import Library
from nde.report.sparse.form import ClosedForm
from nde.report.sparse.regression import held_out_error, information, least_squares, sparse_supports, THRESHOLDS

Criterion = Literal["aicc", "bic", "held_out"]


def closed_form(
    library: Library,
    states: Float[ArrayLike, "*trajectories rows inputs"],
    rates: Float[ArrayLike, "*trajectories rows outputs"],
    *,
    outputs: Sequence[str],
    criterion: Criterion = "bic",
    thresholds: Sequence[float] = THRESHOLDS,
    independent: float | None = None,
    weights: Float[ArrayLike, "*trajectories rows"] | None = None,
    most_terms: int | None = None,
) -> ClosedForm:
    r"""The few terms of a library that make up rates at given states: sparse regression, $R \approx \Theta(X)\,\Xi$.

    Supports come from sequentially thresholded least squares over a path of thresholds, and from leaving out one term
    at a time; a criterion chooses among them, for each rate by itself.

    ```python
    >>> import numpy as np, nde
    >>> states = np.random.default_rng(0).uniform(0.5, 4.0, (200, 2))
    >>> rates = 0.8 * states[:, :1] * states[:, 1:]                     # as a network would give them
    >>> library = nde.fields.library(["prey", "predator"], degree=3)
    >>> print(nde.report.closed_form(library, states, rates, outputs=["predator"]))
    predator: +0.8 (0.8 to 0.8) prey * predator

    ```

    **Arguments:**

    - `library`: the candidates, a `nde.fields.Library` such as `nde.fields.library` makes.
    - `states`: `(rows, inputs)` or `(trajectories, rows, inputs)`, along what was fitted; `rates`: what is to be
      explained there, with an entry for each of `outputs`, their names.
    - `criterion`: `"bic"`, `"aicc"`, or `"held_out"`: the error over trajectories that are left out one at a time.
    - `thresholds`: the shares of a rate's root mean square below which a term is left out, to be
      tried. No term contributes less than the smallest.
    - `independent`: how many independent values the samples stand for, for the criterion and the errors. A network is
      smooth: a thousand states along a trajectory that was fitted to thirty rows hold no more than thirty do.
    - `weights`: of the samples; all alike if `None`. A sample with weight zero may be anything.
    - `most_terms`: how many there may be in a rate; as many as the criterion takes, if `None`.

    **Returns:** a `nde.report.ClosedForm`. Its errors say how well the library describes these rates; what the data
    behind a network leave open is in the spread over the members of an ensemble, or in a refit through the solve.

    **Raises:** `ValueError` for shapes that do not go together, an unknown criterion, a candidate or a rate that is not
    finite, or `"held_out"` with a single trajectory.

    **Limits:** only where states were seen can candidates be told apart; see `condition` of the result.

    **Source:** Brunton, Proctor, Kutz, *Discovering governing equations from data by sparse identification of nonlinear
    dynamical systems*, PNAS 2016. One term less at a time: Boninsegna, Nüske, Clementi, *Sparse learning of stochastic
    dynamical equations*, J. Chem. Phys. 2018 (who leave out the smallest; here, the one that is missed least). The
    choice by an information criterion: Mangan, Kutz, Brunton, Proctor, Proc. R. Soc. A 2017.
    """
    x, r = np.asarray(states, np.float64), np.asarray(rates, np.float64)
    if x.ndim < 2 or x.shape[:-1] != r.shape[:-1] or r.shape[-1] != len(outputs):
        raise ValueError(
            f"closed_form needs states (…, rows, inputs) and rates (…, rows, outputs) of {len(outputs)} outputs, but "
            f"got the shapes {x.shape} and {r.shape}."
        )
    w = np.ones(x.shape[:-1]) if weights is None else np.broadcast_to(np.asarray(weights, np.float64), x.shape[:-1])
    groups = np.broadcast_to(np.arange(x[..., 0, 0].size).reshape(x.shape[:-2])[..., None], x.shape[:-1])
    used = w > 0
    x, r, groups, root = x[used], r[used], groups[used], np.sqrt(w[used])[:, None]
    with np.errstate(all="ignore"):  # what overflows is named below
        matrix = library(x)
    for name, column in [*zip(library.names, matrix.T, strict=True), *zip(outputs, r.T, strict=True)]:
        if not np.isfinite(column).all():
            raise ValueError(f"closed_form needs finite candidates and rates, but '{name}' is not, at these states.")
    return sparse_fit(library, root * matrix, root * r, outputs, criterion, thresholds, independent, groups, most_terms)


def sparse_fit(
    library: Library,
    matrix: np.ndarray,
    rates: np.ndarray,
    outputs: Sequence[str],
    criterion: Criterion,
    thresholds: Sequence[float],
    independent: float | None,
    groups: np.ndarray,
    most_terms: int | None = None,
) -> ClosedForm:
    """The closed form of a linear problem `(samples, candidates)`, `(samples, outputs)`."""
    if criterion not in ("aicc", "bic", "held_out"):
        raise ValueError(f"The criterion is one of aicc, bic, held_out, but got {criterion!r}.")
    if criterion == "held_out" and len(np.unique(groups)) < 2:
        raise ValueError("criterion = 'held_out' leaves out a trajectory at a time, but there is only one.")
    values = float(len(rates)) if independent is None else float(independent)

    def rank(support: np.ndarray, column: np.ndarray) -> float:
        if criterion == "held_out":
            return held_out_error(matrix, column, support, groups)
        return information(matrix, column, support, criterion, values)

    fits = []
    for column in rates.T:
        supports = sparse_supports(matrix, column, thresholds)
        if most_terms is not None:
            supports = [one for one in supports if one.sum() <= most_terms] or [np.zeros(matrix.shape[1], bool)]
        # of equals, the one with fewer terms
        best = min(supports, key=lambda support, column=column: (rank(support, column), int(support.sum())))
        fits.append(least_squares(matrix, column, best, independent=values))
    whole = np.maximum((rates**2).sum(0), np.finfo(float).tiny)
    norms = np.linalg.norm(matrix, axis=0)
    return ClosedForm(
        library,
        tuple(outputs),
        np.stack([fit.coefficients for fit in fits], axis=1),
        np.stack([fit.errors for fit in fits], axis=1),
        1 - np.array([fit.squares for fit in fits]) / whole,
        float(np.linalg.cond(matrix / np.where(norms > 0, norms, 1.0))),
    )
