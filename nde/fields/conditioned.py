"""Networks for diffusion models and flows, which see the time, and a class, in every layer."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nde.fields.checks import check_sizes

OCTAVES = 4


class Condition(eqx.Module):
    r"""What layers see of the time and of a class: $\phi\bigl(W\,[t, \cos 2^k \tfrac\pi2 t, \sin 2^k \tfrac\pi2 t]
    + e_c\bigr)$ with $k = 0, \dots, 3$.

    Without classes `args` has no part in it. With them it is a class, or -1 or `None` for none, which has an $e_c$ of
    its own.
    """

    linear: eqx.nn.Linear
    classes: Float[Array, "classes+1 width"] | None

    def __init__(self, width: int, classes: int, *, key: PRNGKeyArray):
        linear_key, class_key = jax.random.split(key)
        self.linear = eqx.nn.Linear(1 + 2 * OCTAVES, width, key=linear_key)
        dtype = self.linear.weight.dtype
        self.classes = 0.5 * jax.random.normal(class_key, (classes + 1, width), dtype) if classes else None

    def __call__(self, t: Any, args: Any = None) -> Float[Array, " width"]:
        t = jnp.asarray(t, self.linear.weight.dtype)
        phases = jnp.pi / 2 * t * 2.0 ** jnp.arange(OCTAVES, dtype=t.dtype)
        found = self.linear(jnp.concatenate([t[None], jnp.cos(phases), jnp.sin(phases)]))
        if self.classes is not None:
            found = found + self.classes[-1 if args is None else args]  # the last row is that of no class
        return jax.nn.silu(found)


class _Block(eqx.Module):
    r"""$h + W_2\,\phi(W_1 h + V c)$ with the condition $c$."""

    first: eqx.nn.Linear
    second: eqx.nn.Linear
    shift: eqx.nn.Linear

    def __init__(self, width: int, *, key: PRNGKeyArray):
        keys = jax.random.split(key, 3)
        self.first = eqx.nn.Linear(width, width, key=keys[0])
        self.second = eqx.nn.Linear(width, width, key=keys[1])
        self.shift = eqx.nn.Linear(width, width, use_bias=False, key=keys[2])

    def __call__(self, h: Float[Array, " width"], c: Float[Array, " width"]) -> Float[Array, " width"]:
        return h + self.second(jax.nn.silu(self.first(h) + self.shift(c)))


class ResidualField(eqx.Module):
    r"""A residual network of a point, a time and a class: $h_{l+1} = h_l + W_2\,\phi(W_1 h_l + V c(t))$.

    For points of low dimension: as `network` of a `nde.DiffusionModel`, as `velocity` or `denoiser` of a
    `nde.InterpolantModel`, or as any field.

    **Arguments of the constructor:**

    - `state_size`: length of a point.
    - `width`, `depth`: of the hidden layers, and how many blocks of two there are.
    - `classes`: how many; `args` is then a class from 0 on, or -1 or `None` for none.
    - `key`: a JAX random key, for the initial weights.

    **Call:** `field(t, y, args)` with `y` of shape `(state_size,)`; returns that shape.

    **Raises:** `ValueError` for sizes below one, or depth or classes below zero.

    **Limits:** measure time so that it is of order one.
    """

    condition: Condition
    first: eqx.nn.Linear
    blocks: tuple[_Block, ...]
    last: eqx.nn.Linear

    def __init__(self, state_size: int, width: int, depth: int, *, classes: int = 0, key: PRNGKeyArray):
        check_sizes("ResidualField", state_size=state_size, width=width, depth=depth)
        check_sizes("ResidualField", classes=classes + 1)
        keys = jax.random.split(key, depth + 3)
        self.condition = Condition(width, classes, key=keys[0])
        self.first = eqx.nn.Linear(state_size, width, key=keys[1])
        self.blocks = tuple(_Block(width, key=k) for k in keys[3:])
        self.last = eqx.nn.Linear(width, state_size, key=keys[2])

    def __call__(self, t: Any, y: Float[Array, " state"], args: Any = None) -> Float[Array, " state"]:
        c, h = self.condition(t, args), self.first(y)
        for block in self.blocks:
            h = block(h, c)
        return self.last(jax.nn.silu(h))


class _Mixing(eqx.Module):
    """A block of an MLP-mixer: among the patches, then within each, both with what the condition shifts and scales."""

    among: eqx.nn.MLP
    within: eqx.nn.MLP
    condition: eqx.nn.Linear

    def __init__(self, patches: int, width: int, *, key: PRNGKeyArray):
        among_key, within_key, condition_key = jax.random.split(key, 3)
        self.among = eqx.nn.MLP(patches, patches, 2 * patches, 1, activation=jax.nn.silu, key=among_key)
        self.within = eqx.nn.MLP(width, width, 2 * width, 1, activation=jax.nn.silu, key=within_key)
        self.condition = eqx.nn.Linear(width, 4 * width, key=condition_key)

    def __call__(self, h: Float[Array, "patches width"], c: Float[Array, " width"]) -> Float[Array, "patches width"]:
        shift, scale, shift_within, scale_within = jnp.split(self.condition(c), 4)
        h = h + jax.vmap(self.among)(_normed(h, shift, scale).T).T
        return h + jax.vmap(self.within)(_normed(h, shift_within, scale_within))


class MixerField(eqx.Module):
    r"""An MLP-mixer of a small image, a time and a class: patches become vectors, mixed among and within the patches.

    **Arguments of the constructor:**

    - `shape`: `(height, width)` of the image, multiples of `patch`; a state is the image row by row.
    - `patch`: the side of a patch.
    - `width`, `depth`: of a patch's vector, and how many blocks there are.
    - `classes`: as of `nde.fields.ResidualField`.
    - `key`: a JAX random key, for the initial weights.

    **Call:** `field(t, y, args)` with `y` of shape `(height * width,)`; returns that shape.

    **Raises:** `ValueError` for sizes below one, or sides that are no multiples of the patch's.

    **Source:** Tolstikhin et al., *MLP-Mixer*, 2021, arXiv 2105.01601; conditioned by shift and scale as Peebles & Xie
    2023, arXiv 2212.09748.
    """

    condition: Condition
    places: Float[Array, "patches width"]
    first: eqx.nn.Linear
    blocks: tuple[_Mixing, ...]
    last: eqx.nn.Linear
    shape: tuple[int, int] = eqx.field(static=True)
    patch: int = eqx.field(static=True)

    def __init__(
        self,
        shape: tuple[int, int],
        width: int,
        depth: int,
        *,
        patch: int = 2,
        classes: int = 0,
        key: PRNGKeyArray,
    ):
        check_sizes("MixerField", height=shape[0], width=shape[1], patch=patch, depth=depth)
        check_sizes("MixerField", width=width, classes=classes + 1)
        if shape[0] % patch or shape[1] % patch:
            raise ValueError(f"MixerField needs sides that are multiples of {patch=}, but got shape={tuple(shape)}.")
        self.shape, self.patch = (shape[0], shape[1]), patch
        patches = shape[0] * shape[1] // patch**2
        keys = jax.random.split(key, depth + 4)
        self.condition = Condition(width, classes, key=keys[0])
        self.first = eqx.nn.Linear(patch**2, width, key=keys[1])
        self.places = 0.1 * jax.random.normal(keys[2], (patches, width), self.first.weight.dtype)
        self.last = eqx.nn.Linear(width, patch**2, key=keys[3])
        self.blocks = tuple(_Mixing(patches, width, key=k) for k in keys[4:])

    def __call__(self, t: Any, y: Float[Array, " state"], args: Any = None) -> Float[Array, " state"]:
        (height, width), patch = self.shape, self.patch
        cut = y.reshape(height // patch, patch, width // patch, patch).swapaxes(1, 2)
        h = jax.vmap(self.first)(cut.reshape(-1, patch**2)) + self.places
        c = self.condition(t, args)
        for block in self.blocks:
            h = block(h, c)
        out = jax.vmap(self.last)(_normed(h)).reshape(cut.shape)
        return out.swapaxes(1, 2).reshape(y.shape)


def _normed(h: Float[Array, "rows width"], shift: Any = None, scale: Any = None) -> Float[Array, "rows width"]:
    """Each row with mean zero and variance one, then shifted and scaled."""
    normed = jax.vmap(eqx.nn.LayerNorm(h.shape[1], use_weight=False, use_bias=False))(h)
    return normed if shift is None else normed * (1 + scale)[None] + shift[None]
