"""Derivatives that a loop with a gradient of its own does not have, refused by what can be done instead.

JAX refuses them too, but of a `while_loop` or a `custom_vjp` that no user wrote. Here linear primitives that change
nothing stand in the places at which it would.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

_KNOWN = (
    "or steps that are known beforehand (diffrax.StepTo, or constant ones between ends that are numbers) with "
    "nde.CheckpointAdjoint, for which every transformation of JAX works."
)


def only_backward(tangents: Sequence[Any], primals: Sequence[Any]) -> list[jax.Array]:
    """The tangents, which can be transposed, and no more: not evaluated, and not differentiated in the primals."""
    token = _token_p.bind(*primals)
    return [_backward_p.bind(t, token) for t in tangents]


def backward_once(x: jax.Array) -> jax.Array:
    """The result of a loop, whose derivative is forward alone."""
    return _once_p.bind(x)


def _refuse_forward(*_, **__):
    raise TypeError(
        "nde.diffeqsolve has no forward mode (jax.jvp, jax.jacfwd, jax.linearize) through steps that are chosen as it "
        "goes, by any adjoint of nde. Take reverse mode (jax.vjp, jax.jacrev); or adjoint=diffrax.ForwardMode() or "
        f"diffrax.DirectAdjoint(); {_KNOWN}"
    )


def _refuse_twice(*_, **__):
    raise ValueError(
        "nde.diffeqsolve can not be differentiated backward twice (jax.grad of jax.grad, jax.jacrev of jax.grad) "
        "through steps that are chosen as it goes, by any adjoint of nde. Take forward mode over reverse mode "
        "(jax.hessian, jax.jacfwd of jax.grad, jax.jvp of jax.grad); or adjoint=diffrax.DirectAdjoint(); " + _KNOWN
    )


# Of what a derivative is taken at: nothing, but it hangs on it, so that to differentiate that is seen, too.
_token_p = Primitive("nde_token")
_token_p.def_impl(lambda *_: jnp.zeros((), jnp.float32))
_token_p.def_abstract_eval(lambda *_: ShapedArray((), jnp.dtype(jnp.float32)))
mlir.register_lowering(_token_p, mlir.lower_fun(lambda *_: jnp.zeros((), jnp.float32), multiple_results=False))
batching.primitive_batchers[_token_p] = lambda xs, dims: (_token_p.bind(*xs), None)


def _token_jvp(primals, tangents):
    moved = [t for t in tangents if type(t) is not ad.Zero and t.dtype != jax.dtypes.float0]
    token = _token_p.bind(*primals)
    return token, _token_p.bind(*moved) if moved else ad.Zero(ShapedArray((), jnp.dtype(jnp.float32)))


ad.primitive_jvps[_token_p] = _token_jvp
ad.primitive_transposes[_token_p] = lambda ct, *xs: [ad.Zero(x.aval) if ad.is_undefined_primal(x) else None for x in xs]

_backward_p = Primitive("nde_backward")
_backward_p.def_impl(_refuse_forward)
_backward_p.def_abstract_eval(lambda x, _: x)
mlir.register_lowering(_backward_p, _refuse_forward)
batching.primitive_batchers[_backward_p] = _refuse_forward
ad.primitive_jvps[_backward_p] = _refuse_forward
ad.primitive_transposes[_backward_p] = lambda ct, *_: [ct if type(ct) is ad.Zero else _once_p.bind(ct), None]

_once_p = Primitive("nde_once")
_once_p.def_impl(lambda x: x)
_once_p.def_abstract_eval(lambda x: x)
mlir.register_lowering(_once_p, lambda _, x: [x])
batching.primitive_batchers[_once_p] = lambda xs, dims: (_once_p.bind(*xs), dims[0])
ad.deflinear2(_once_p, _refuse_twice)
