"""What `nde.diffeqsolve` says of a call that can not be meant, before anything is traced."""

import inspect

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import nde

TERM = nde.ODETerm(lambda t, y, args: -y)


def solve(terms=TERM, solver=nde.Tsit5(), y0=None, **options):  # noqa: B008  (immutable)
    return nde.diffeqsolve(terms, solver, 0.0, 1.0, 0.1, jnp.ones(3) if y0 is None else y0, **options)


def test_the_signature_has_every_keyword_of_diffrax():
    mine = inspect.signature(nde.diffeqsolve).parameters
    theirs = inspect.signature(diffrax.diffeqsolve).parameters
    assert set(theirs) <= set(mine)
    same = [name for name in mine if name in theirs and name != "adjoint"]
    assert all(mine[name].kind == theirs[name].kind for name in same)
    defaults = {name: (mine[name].default, theirs[name].default) for name in same}
    assert all(repr(a) == repr(b) for a, b in defaults.values()), defaults


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        ({"terms": lambda t, y, args: -y}, TypeError, r"a function: wrap the function f\(t, y, args\) as nde.ODETerm"),
        ({"terms": eqx.nn.MLP(3, 3, 4, 1, key=jax.random.key(0))}, TypeError, r"got a MLP: wrap"),
        ({"terms": (TERM, lambda t, y, args: -y), "solver": nde.SemiImplicitEuler()}, TypeError, "got a function"),
        ({"terms": nde.ODETerm}, TypeError, r"terms is the class ODETerm; give an instance"),
        ({"solver": nde.Tsit5}, TypeError, r"solver is the class Tsit5; give an instance: Tsit5\(…\)"),
        ({"adjoint": nde.CheckpointAdjoint}, TypeError, "adjoint is the class CheckpointAdjoint; give an instance"),
        ({"stepsize_controller": nde.PIDController}, TypeError, "stepsize_controller is the class PIDController"),
        ({"saveat": jnp.linspace(0, 1, 4)}, TypeError, r"saveat must be a nde.SaveAt, as nde.SaveAt\(ts=…\)"),
        ({"solver": "tsit5"}, TypeError, r"solver must be a solver, as nde.Tsit5\(\), but is a str"),
        (
            {"terms": nde.ODETerm(lambda t, y, args: -y[:2])},
            ValueError,
            r"field returns an array of shape \(2,\), but the state y0 is an array of shape \(3,\)",
        ),
        ({"terms": nde.ODETerm(lambda t, y, args: (y, y))}, ValueError, r"field returns \(\(3,\), \(3,\)\)"),
        ({"terms": nde.ODETerm(lambda t, y, args: jnp.ones((2, 3)))}, ValueError, r"shape \(2, 3\)"),
        ({"terms": nde.ODETerm(lambda t, y, args: None)}, ValueError, "field returns None"),
    ],
)
def test_a_wrong_call_is_told_what_would_be_right(call, error, says):
    with pytest.raises(error, match=says):
        solve(**call)


def test_what_diffrax_broadcasts_is_let_through():
    for field in (lambda t, y, args: 1.0, lambda t, y, args: jnp.ones(1)):
        assert jnp.allclose(solve(nde.ODETerm(field)).ys[-1], 2.0)
    assert solve(y0=1, max_steps=64).ys.shape == (1,)
