"""A linear model of a series' signature, fitted in closed form: what a neural CDE is to beat."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from nde.dtypes import as_floats
from nde.models.checks import check_series
from nde.paths import series_path, signature

PENALTIES = tuple(float(x) for x in 10.0 ** np.arange(-8, 3))
"""Ridge penalties that are tried, in units of the mean square of a row of standardised features."""


class SignatureRegression(eqx.Module):
    r"""A linear function of a series' signature: $A\,\Phi + b$, $\Phi = (X(t_0), 1!\,S_1, 2!\,S_2, \dots, N!\,S_N)$.

    `X` is the linear path of `nde.paths.series_path` through time, values and, if asked for, the counts of their
    observations, $S_k$ the iterated integrals of $k$ of its channels (`nde.paths.signature`). The solution of any
    controlled equation is close to such a function, since it is linear in the whole signature where the equation's
    field is. The features are fixed: only `weights` and `bias` are learned, in closed form by
    `nde.models.fit_signature_regression`, or as any model's parameters by gradients.

    ```python
    >>> import jax.numpy as jnp, nde
    >>> model = nde.models.SignatureRegression(channels=2, out_size=3, depth=2)
    >>> days, values = jnp.array([0, 7, 14]), jnp.array([[1.0, 2.0], [jnp.nan, 2.5], [1.2, jnp.nan]])  # NaN is missing
    >>> model(days, values).shape, model.weights.shape  # 5 first points, 5 + 25 words
    ((3,), (3, 35))

    ```

    **Arguments of the constructor:** `channels`, of the series; `out_size`, of the output; `depth`: $N$; `time_scale`:
    the unit of time, such as a usual length of a series; `counts`: whether the counts of observations are channels,
    in units of `count_scale`. All static. Weights start at zero.

    **Call:** `model(ts, values, mask=None)` as that of `nde.NeuralCDE`; `model.features(ts, values, mask)` is $\Phi$.

    **Raises:** `ValueError` for sizes below one, and for a series that does not fit.

    **Limits:** there are as many features as words, `path_size ** depth` of the longest.

    **Source:** Fermanian, *Embedding and learning with signatures*, Computational Statistics & Data Analysis 2021,
    arXiv 1911.13211; Bleistein, Fermanian, Jannot, Guilloux, *Learning the dynamics of sparsely observed interacting
    systems*, ICML 2023, arXiv 2301.11647, section 3, where the penalty is that of the lasso.
    """

    weights: Float[Array, "out features"]
    bias: Float[Array, " out"]
    channels: int = eqx.field(static=True)
    depth: int = eqx.field(static=True)
    time_scale: float = eqx.field(static=True)
    counts: bool = eqx.field(static=True)
    count_scale: float = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        out_size: int,
        depth: int,
        *,
        time_scale: float = 1.0,
        counts: bool = True,
        count_scale: float = 1.0,
    ):
        for name, size in {"channels": channels, "out_size": out_size, "depth": depth}.items():
            if size < 1:
                raise ValueError(f"SignatureRegression needs {name} >= 1, but got {size}.")
        if not (time_scale > 0 and count_scale > 0):
            raise ValueError(
                "SignatureRegression needs time_scale > 0 and count_scale > 0, but got "
                f"time_scale={time_scale} and count_scale={count_scale}."
            )
        self.channels, self.depth, self.time_scale = channels, depth, time_scale
        self.counts, self.count_scale = bool(counts), count_scale
        size = 1 + channels * (2 if counts else 1)
        self.weights = jnp.zeros((out_size, size + sum(size**k for k in range(1, depth + 1))))
        self.bias = jnp.zeros(out_size)

    @eqx.filter_jit  # or a call outside of `jit` would compile its scan anew
    def features(self, ts: ArrayLike, values: ArrayLike, mask: ArrayLike | None = None) -> Float[Array, " features"]:
        """The first point and the signature, the shorter words first, each level times the factorial of its length."""
        ts, values, mask = check_series(
            "SignatureRegression", ts, values, mask, channels=self.channels, like=self.weights
        )
        path = series_path((ts - ts[0]) / self.time_scale, values, mask, interpolation="linear")
        assert isinstance(path, diffrax.LinearInterpolation)
        times, seen, counts = jnp.split(path.ys, [1, 1 + self.channels], axis=1)
        points = jnp.concatenate([times, seen, counts / self.count_scale] if self.counts else [times, seen], axis=1)
        levels = signature(points, self.depth)
        return jnp.concatenate([points[0], *(math.factorial(k) * jnp.ravel(x) for k, x in enumerate(levels, start=1))])

    def __call__(
        self,
        ts: ArrayLike,
        values: ArrayLike,
        mask: ArrayLike | None = None,
        args: None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " out"]:
        features = self.features(ts, values, mask)
        weights, bias = as_floats(self.weights, self.bias, like=features)
        return weights @ features.astype(weights.dtype) + bias


class SignatureFit(NamedTuple):
    """A fitted `nde.models.SignatureRegression`, and how it was chosen.

    - `model`: fitted on all series, of the chosen `depth` and `penalty`.
    - `errors`: the mean squared error on held-out folds, `(depths, penalties)`, over the targets' variance.
    """

    model: SignatureRegression
    depth: int
    penalty: float
    errors: Float[np.ndarray, "depths penalties"]


def fit_signature_regression(
    ts: ArrayLike,
    values: ArrayLike,
    mask: ArrayLike | None,
    targets: ArrayLike,
    *,
    depth: int = 4,
    penalties: Sequence[float] = PENALTIES,
    folds: int = 5,
    counts: bool = True,
) -> SignatureFit:
    r"""Ridge regression of targets on the signatures of series, its depth and penalty chosen by cross-validation.

    Features are standardised; those of all depths are the first of the deepest, so that they are computed once. One
    singular value decomposition of a fold's features serves all penalties.

    **Arguments:** `ts`, `values`, `mask`: series as `nde.NeuralCDE` takes them, with a leading axis, padded to one
    length; `targets`: `(series,)` or `(series, out)`; for classes, columns of zeros and ones. `depth`: the deepest that
    is tried, from 1 on; `penalties`: $\lambda$ over the mean square of a row of features; `folds`: series `i` is held
    out in fold `i % folds`; `counts`: as in `nde.models.SignatureRegression`.

    **Returns:** a `SignatureFit`, whose model has the longest series for its unit of time.

    **Raises:** `ValueError` if the shapes do not fit, for fewer series than folds, or for targets that are not finite.
    """
    ts, values = (np.asarray(x, float) for x in (ts, values))
    targets = np.asarray(targets, float)
    targets = targets[:, None] if targets.ndim == 1 else targets
    if ts.ndim != 2 or targets.ndim != 2 or len(targets) != len(ts):
        raise ValueError(
            "a signature regression needs ts of shape (series, rows) and targets of shape (series,) or (series, out), "
            f"but got ts of shape {ts.shape} and targets of shape {targets.shape}."
        )
    if not 2 <= folds <= len(ts):
        raise ValueError(
            f"a signature regression needs two folds or more, one series each, but got {folds} of {len(ts)}."
        )
    bad = ~np.isfinite(targets).all(axis=1)
    if bad.any():
        raise ValueError(f"a signature regression needs finite targets, but that of series {bad.argmax()} is not.")
    seen = np.isfinite(values) if mask is None else np.asarray(mask, bool) & np.isfinite(values)
    scales = {
        "time_scale": float(np.max(ts[:, -1] - ts[:, 0])),
        "count_scale": max(float(seen.sum(axis=1).mean()), 1.0),
    }
    deepest = SignatureRegression(values.shape[-1], targets.shape[1], depth, counts=counts, **scales)
    features = np.asarray(_features(deepest, jnp.asarray(ts), jnp.asarray(values), jnp.asarray(seen)), float)
    size = 1 + values.shape[-1] * (2 if counts else 1)
    columns = size + np.cumsum([size**k for k in range(1, depth + 1)])
    fold = np.arange(len(ts)) % folds
    errors = np.zeros((depth, len(penalties)))
    for each in range(folds):
        out = fold == each
        for k, last in enumerate(columns):
            for j, (weights, bias) in enumerate(_ridge(features[~out, :last], targets[~out], penalties)):
                errors[k, j] += np.sum((features[out, :last] @ weights + bias - targets[out]) ** 2)
    errors /= max(np.sum((targets - targets.mean(axis=0)) ** 2), np.finfo(float).tiny)
    k, j = np.unravel_index(errors.argmin(), errors.shape)
    ((weights, bias),) = _ridge(features[:, : columns[k]], targets, [penalties[j]])
    chosen = SignatureRegression(values.shape[-1], targets.shape[1], int(k) + 1, counts=counts, **scales)
    model = eqx.tree_at(lambda m: (m.weights, m.bias), chosen, (jnp.asarray(weights.T), jnp.asarray(bias)))
    return SignatureFit(model, int(k) + 1, penalties[j], errors)


@eqx.filter_jit
def _features(model: SignatureRegression, ts: Array, values: Array, mask: Array) -> Array:
    return jax.vmap(model.features)(ts, values, mask)


def _ridge(
    features: np.ndarray, targets: np.ndarray, penalties: Sequence[float]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights `(features, out)` and bias of each penalty, of features as they are: they are standardised in here."""
    centre, spread, mean = features.mean(axis=0), features.std(axis=0), targets.mean(axis=0)
    # a feature that does not vary, but for rounding, has no weight
    scale = np.where(spread > 1e-10 * (1e-10 + np.abs(centre)), spread, np.inf)
    x = (features - centre) / scale
    left, roots, right = np.linalg.svd(x, full_matrices=False)
    unit = max(np.sum(x**2) / len(x), np.finfo(float).tiny)
    inner = left.T @ (targets - mean)
    found = []
    for penalty in penalties:
        weights = right.T @ ((roots / (roots**2 + penalty * unit))[:, None] * inner) / scale[:, None]
        found.append((weights, mean - centre @ weights))
    return found
