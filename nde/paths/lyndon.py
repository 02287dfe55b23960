"""A basis of the free Lie algebra: the brackets of Lyndon words, and coordinates of log-signatures in it."""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nde.paths.tensors import level_sizes, Levels

Word = tuple[int, ...]


def lyndon_words(channels: int, depth: int) -> list[Word]:
    """The words of up to `depth` letters that come before all of their rotations, the shorter first, then in order.

    **Source:** Duval, *Génération d'une section des classes de conjugaison et arbre des mots de Lyndon de longueur
    bornée*, Theoretical Computer Science 1988.
    """
    found, word = [], [-1]
    while word:
        word[-1] += 1
        found.append(tuple(word))
        length = len(word)
        while len(word) < depth:
            word.append(word[-length])
        while word and word[-1] == channels - 1:
            word.pop()
    return sorted(found, key=lambda word: (len(word), word))


@functools.cache
def bracket(word: Word) -> dict[Word, int]:
    """The Lie bracket that belongs to a Lyndon word, as a sum of words: `[P_u, P_v]`, `v` the longest Lyndon suffix."""
    if len(word) == 1:
        return {word: 1}
    cut = next(k for k in range(1, len(word)) if _is_lyndon(word[k:]))
    total: dict[Word, int] = {}
    for u, a in bracket(word[:cut]).items():
        for v, b in bracket(word[cut:]).items():
            total[u + v] = total.get(u + v, 0) + a * b
            total[v + u] = total.get(v + u, 0) - a * b
    return {key: value for key, value in total.items() if value}


def _is_lyndon(word: Word) -> bool:
    return all(word < word[k:] for k in range(1, len(word)))


def lyndon_coordinates(log: Levels) -> Float[Array, " lyndon"]:
    r"""The coordinates $c_w$ of a Lie element $\sum_w c_w P_w$ in the basis of brackets of `lyndon_words`, in order.

    **Arguments:** `log`: the levels of a logarithm of a signature, as `nde.paths.log_signature` gives them.

    **Source:** Reutenauer, *Free Lie Algebras*, 1993, chapter 5: each bracket is its Lyndon word plus words that come
    later, so that the coefficients of the Lyndon words alone determine the coordinates, by a triangular system.
    """
    channels, _ = level_sizes(log)
    parts = []
    for k, level in enumerate(log, start=1):
        places, inverse = _system(channels, k)
        parts.append(jnp.asarray(inverse, level.dtype) @ jnp.ravel(level)[places])
    return jnp.concatenate(parts)


@functools.cache
def _system(channels: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the Lyndon words of a length stand in their level, and the matrix from those entries to coordinates."""
    chosen = [word for word in lyndon_words(channels, length) if len(word) == length]
    matrix = np.array([[bracket(w).get(v, 0) for w in chosen] for v in chosen], float)
    places = np.array([np.ravel_multi_index(word, (channels,) * length) for word in chosen])
    return places, np.linalg.inv(matrix)
