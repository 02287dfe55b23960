r"""The truncated tensor algebra: words of up to so many letters, with a coefficient each.

An element is a tuple of its levels from the first on, the `k`-th an array of shape `(d,) * k` for `d` channels, whose
entry `[i, ..., j]` belongs to the word `i ... j`. Its level zero is not stored: it is one where an element stands for
a path (`exp_tensor`, `chen_product`), and zero where it stands for a logarithm (`log_tensor`).
"""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

Levels = tuple[Array, ...]


def outer(x: Array, y: Array) -> Array:
    """Each entry of one array times each of another: of shape `(*x.shape, *y.shape)`."""
    return jnp.tensordot(x, y, axes=0)


def chen_product(a: Sequence[Array], b: Sequence[Array]) -> Levels:
    r"""The product of two elements $1 + a$ and $1 + b$, without its one: of level $k$, $\sum_j a_j \otimes b_{k-j}$.

    Chen's identity: of the signatures of two paths it is that of the one path followed by the other.
    """
    return tuple(a[k] + b[k] + sum(outer(a[j], b[k - 1 - j]) for j in range(k)) for k in range(len(a)))


def exp_tensor(x: Sequence[Array]) -> Levels:
    r"""$\exp(x) - 1 = x (1 + \frac{x}{2} (1 + \frac{x}{3} (\cdots)))$, of an element without a level zero."""
    found = tuple(jnp.zeros_like(level) for level in x)
    for n in range(len(x), 0, -1):
        share = tuple(level / n for level in x)
        found = tuple(a + b for a, b in zip(share, _inner(share, found), strict=True))
    return found


def log_tensor(s: Sequence[Array]) -> Levels:
    r"""$\log(1 + s) = s (1 - s (\frac12 - s (\frac13 - \cdots)))$, of an element whose level zero is one."""
    depth = len(s)
    found = tuple(level / depth for level in s)
    for n in range(depth - 1, 0, -1):
        found = tuple(a / n - b for a, b in zip(s, _inner(s, found), strict=True))
    return found


def _inner(a: Sequence[Array], b: Sequence[Array]) -> Levels:
    """The product of two elements whose level zero is zero."""

    def level(k: int) -> Array:
        return sum((outer(a[j], b[k - 1 - j]) for j in range(1, k)), outer(a[0], b[k - 1]))

    return jnp.zeros_like(a[0]), *(level(k) for k in range(1, len(a)))


def then_line(s: Sequence[Array], dx: Float[Array, " channels"]) -> Levels:
    r"""The signature of a path followed by a straight line: `chen_product(s, exp_tensor((dx, 0, ...)))`.

    By Horner's rule for each level, $s_k + (s_{k-1} + (s_{k-2} + \cdots) \frac{dx}{2}) dx$: as many operations as the
    highest level has entries, times two, where the exponential and the product need that times the depth.

    **Source:** Kidger, Lyons, *Signatory: differentiable computations of the signature and logsignature transforms*,
    ICLR 2021, arXiv 2001.00706, section 4.1.
    """
    found = []
    for k in range(len(s)):
        level = dx / (k + 1)
        for j in range(k):
            level = outer(s[j] + level, dx / (k - j))
        found.append(s[k] + level)
    return tuple(found)


def no_levels(channels: int, depth: int, dtype: jnp.dtype) -> Levels:
    """The signature of a path that does not move."""
    return tuple(jnp.zeros((channels,) * k, dtype) for k in range(1, depth + 1))


def flatten_levels(levels: Sequence[Array]) -> Float[Array, " words"]:
    """All levels in one row, words in the order of `words`."""
    return jnp.concatenate([jnp.ravel(level) for level in levels])


def split_levels(flat: Float[Array, " words"], channels: int, depth: int) -> Levels:
    """What `flatten_levels` has put together."""
    ends = list(itertools.accumulate(channels**k for k in range(1, depth + 1)))
    parts = jnp.split(flat, ends[:-1])
    return tuple(jnp.reshape(part, (channels,) * k) for k, part in enumerate(parts, start=1))


def words(channels: int, depth: int) -> list[tuple[int, ...]]:
    """All words of up to `depth` letters, the shorter first, those of one length in order."""
    return [word for k in range(1, depth + 1) for word in itertools.product(range(channels), repeat=k)]


def level_sizes(levels: Sequence[Array]) -> tuple[int, int]:
    """The channels and the depth of an element.

    **Raises:** `ValueError` if its levels are not of shape `(channels,) * k`.
    """
    shapes = [jnp.shape(level) for level in levels]
    channels = shapes[0][0] if shapes and len(shapes[0]) == 1 else 0
    if not shapes or any(shape != (channels,) * k for k, shape in enumerate(shapes, start=1)):
        raise ValueError(f"the levels of a tensor are of shape (d,), (d, d), ..., but got {shapes}.")
    return channels, len(shapes)
