"""Networks in half precision within equations in single precision."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import nde
from nde.config import build_loss, RegulariseConfig, TrainConfig
from nde.fields import in_precision

ODE = nde.NeuralODE(nde.MLPField(2, 8, 1, key=jax.random.key(0)), solver=nde.Heun(), dt0=0.25)
TS = np.array([0.0, 0.5, 1.0], np.float32)


def single(tree):
    return jax.tree.map(lambda x: x.astype(jnp.float32) if eqx.is_inexact_array(x) else x, tree)


def test_networks_round_and_states_do_not():
    model, y = single(ODE), jnp.array([0.3, -1.0], jnp.float32)
    rounded = in_precision(model, "bfloat16")
    assert rounded.field.network.in_size == 2
    text = str(jax.make_jaxpr(lambda y: rounded.field(0.0, y, None))(y))
    assert "bf16[8] = dot_general" in text
    ys, exact = rounded(TS, y), model(TS, y)
    assert ys.dtype == jnp.float32
    off = float(jnp.max(jnp.abs(ys - exact)))
    assert 1e-5 < off < 0.02


def test_gradient_of_a_run_in_half_precision_is_near_that_in_single_and_in_single_itself():
    model = single(nde.ObservedODE(ODE, None, nde.GaussianLikelihood(2), observed=(0, 1)))
    ones = np.ones((3, 3, 2), np.float32)
    batch = (np.tile(TS, (3, 1)), ones, ones, np.arange(3), ones[:, 0] * np.arange(3, dtype=np.float32)[:, None])
    found = {}
    for dtype in (None, "bfloat16"):
        loss = build_loss(RegulariseConfig(), TrainConfig(network_dtype=dtype), nde.TrajectoryFit())
        gradient = eqx.filter_grad(lambda m, loss=loss: loss(m, batch, jnp.asarray(0), jax.random.key(0)).loss)(model)
        found[dtype] = np.concatenate([np.ravel(x) for x in jax.tree.leaves(gradient)])
    assert found["bfloat16"].dtype == np.float32
    size = np.linalg.norm(found[None])
    assert 1e-5 * size < np.linalg.norm(found["bfloat16"] - found[None]) < 0.03 * size
