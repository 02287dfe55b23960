"""How the values of a function depend on its argument: not at all, element by element, or otherwise; and how smoothly.

The function is traced, and what is known of the argument is carried through its operations.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jaxtyping import PyTree

MIXED = -1
"""The `leaf` of a value of which an element depends on more than one of the argument's, or may do so."""


class Dependence(NamedTuple):
    """What is known of a value.

    - `leaf`: `None` if it does not depend on the argument; the number of the argument's leaf on whose elements its own
      depend one by one; else `MIXED`.
    - `kink`: the name of an operation on the way whose derivative jumps, or `None`.
    """

    leaf: int | None = None
    kink: str | None = None


CONSTANT = Dependence()

# Operations that act on each element alone, and are smooth where they are finite.
ELEMENTWISE = frozenset(
    ["acos", "acosh", "add", "add_any", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "convert_element_type",
     "copy", "copy_p", "cos", "cosh", "digamma", "div", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "integer_pow",
     "lgamma", "log", "log1p", "logistic", "mul", "neg", "pow", "reduce_precision", "rsqrt", "select_n", "sin", "sinh",
     "sqrt", "square", "sub", "tan", "tanh"]
)  # fmt: skip
# Those of no derivative, or of one that jumps.
KINKED = frozenset(
    ["abs", "argmax", "argmin", "ceil", "clamp", "cummax", "cummin", "eq", "floor", "ge", "gt", "le", "lt", "max",
     "min", "ne", "nextafter", "reduce_max", "reduce_min", "reduce_window_max", "reduce_window_min", "rem", "round",
     "select_and_gather_add", "sign", "sort", "top_k"]
)  # fmt: skip
# Operations whose result has no derivative and is not meant to have one, and guards against infinities.
WITHOUT_DERIVATIVE = frozenset({"stop_gradient", "is_finite"})
# Functions of JAX that are smooth, but are written with operations that are not.
SMOOTH = frozenset({"logaddexp", "logaddexp2"})


def dependence(function: Callable[..., PyTree[Any]], argument: PyTree[Any]) -> list[Dependence]:
    """How each leaf of `function(argument)` depends on the argument's leaves.

    Comparisons whose result selects or multiplies count as kinks. What goes through `jax.lax.stop_gradient` counts as
    constant, and so does a guard against NaN or infinity. An operation that is not known counts as smooth and as
    mixing: so `leaf` may be `MIXED` for a function that acts element by element, never the other way round.
    """
    leaves, structure = jax.tree.flatten(argument)
    closed = jax.make_jaxpr(lambda *leaves: function(structure.unflatten(leaves)))(*leaves)
    shapes = tuple(x.aval.shape for x in closed.jaxpr.invars)
    return _of_jaxpr(closed.jaxpr, [Dependence(i) for i in range(len(leaves))], shapes)


def _of_jaxpr(jaxpr: Jaxpr, inputs: Sequence[Dependence], shapes: tuple) -> list[Dependence]:
    known: dict[Any, Dependence] = dict(zip(jaxpr.invars, inputs, strict=True))

    def read(x: Any) -> Dependence:
        return CONSTANT if isinstance(x, Literal) else known.get(x, CONSTANT)

    for eqn in jaxpr.eqns:
        found = _of_equation(eqn, [read(x) for x in eqn.invars], shapes)
        known.update(zip(eqn.outvars, found, strict=True))
    return [read(x) for x in jaxpr.outvars]


def _of_equation(eqn: Any, inputs: list[Dependence], shapes: tuple) -> list[Dependence]:
    name, count = eqn.primitive.name, len(eqn.outvars)
    if all(x == CONSTANT for x in inputs) or name in WITHOUT_DERIVATIVE or _asks_for_nan(eqn):
        return [CONSTANT] * count
    if name in LOOPS:
        return LOOPS[name](eqn, inputs, shapes)
    inner = _called(eqn)
    if inner is not None:
        return _of_call(inner, inputs, shapes)
    joined = functools.reduce(_join, inputs)
    if name in KINKED:
        return [Dependence(joined.leaf, joined.kink or name)] * count
    if name == "select_n" and inputs[0].leaf is not None:
        return [Dependence(MIXED, f"select by {inputs[0].kink}")] * count
    if name not in ELEMENTWISE or not _keeps_shape(eqn, joined, shapes):
        joined = joined._replace(leaf=MIXED)
    return [joined] * count


def _keeps_shape(eqn: Any, joined: Dependence, shapes: tuple) -> bool:
    """Whether an elementwise operation yields as many elements as the leaf has on which it depends."""
    return joined.leaf in (None, MIXED) or all(x.aval.shape == shapes[joined.leaf] for x in eqn.outvars)


def _join(a: Dependence, b: Dependence) -> Dependence:
    """What is known of a value made of two."""
    leaves = {x.leaf for x in (a, b)} - {None}
    return Dependence(leaves.pop() if len(leaves) == 1 else MIXED if leaves else None, a.kink or b.kink)


def _asks_for_nan(eqn: Any) -> bool:
    """Whether it is the comparison of a value with itself."""
    return eqn.primitive.name in ("ne", "eq") and eqn.invars[0] is eqn.invars[1]


def _called(eqn: Any) -> Any:
    """The function that an equation calls once on its own inputs, if it calls one."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(name)
        if inner is not None:
            return _open(inner)
    return None


def _open(inner: Any) -> Jaxpr:
    return inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner


def _of_call(inner: Any, inputs: list[Dependence], shapes: tuple) -> list[Dependence]:
    name = inner.debug_info.func_name
    if name in SMOOTH:
        joined = functools.reduce(_join, inputs)
        same = joined.leaf in (None, MIXED) or inner.outvars[0].aval.shape == shapes[joined.leaf]
        return [joined if same else joined._replace(leaf=MIXED)]
    before = {x.kink for x in inputs}
    found = _of_jaxpr(inner, inputs, shapes)

    def named(x: Dependence) -> Dependence:
        old = x.kink is None or x.kink in before or x.kink.startswith(f"{name}:")
        return x if old or name.startswith("_") else x._replace(kink=f"{name}: {x.kink}")

    return [named(x) for x in found]


def _of_scan(eqn: Any, inputs: list[Dependence], shapes: tuple) -> list[Dependence]:
    constants, carries = eqn.params["num_consts"], eqn.params["num_carry"]
    body = _open(eqn.params["jaxpr"])
    consts, carry, xs = inputs[:constants], inputs[constants : constants + carries], inputs[constants + carries :]
    consts, xs = [_mixed(x) for x in consts], [_mixed(x) for x in xs]
    carry, out = _settle(lambda carry: _of_jaxpr(body, [*consts, *carry, *xs], shapes), carry)
    return [*carry, *(_mixed(x) for x in out[carries:])]


def _of_while(eqn: Any, inputs: list[Dependence], shapes: tuple) -> list[Dependence]:
    first, second = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    consts = [_mixed(x) for x in inputs[: first + second]]
    body, test = _open(eqn.params["body_jaxpr"]), _open(eqn.params["cond_jaxpr"])
    carry, _ = _settle(lambda c: _of_jaxpr(body, [*consts[first:], *c], shapes), inputs[first + second :])
    (ends,) = _of_jaxpr(test, [*consts[:first], *carry], shapes)
    if ends.leaf is not None:
        return [Dependence(MIXED, f"while_loop that ends by {ends.kink}")] * len(carry)
    return carry


def _of_cond(eqn: Any, inputs: list[Dependence], shapes: tuple) -> list[Dependence]:
    index, *rest = inputs
    if index.leaf is not None:
        return [Dependence(MIXED, f"cond by {index.kink}")] * len(eqn.outvars)
    branches = [_of_jaxpr(_open(branch), rest, shapes) for branch in eqn.params["branches"]]
    return [functools.reduce(_join, found) for found in zip(*branches, strict=True)]


LOOPS = {"scan": _of_scan, "while": _of_while, "cond": _of_cond}


def _settle(body: Callable, carry: list[Dependence]) -> tuple[list[Dependence], list[Dependence]]:
    """What a loop's carry depends on after any number of turns, and the last turn's output."""
    carry = [_mixed(x) for x in carry]
    while True:
        out = body(carry)
        new = [_join(a, _mixed(b)) for a, b in zip(carry, out[: len(carry)], strict=True)]
        if new == carry:
            return carry, out
        carry = new


def _mixed(x: Dependence) -> Dependence:
    return x if x.leaf is None else x._replace(leaf=MIXED)
