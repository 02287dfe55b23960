"""The examples of docstrings give what they print."""

import doctest
import importlib

import jax
import pytest

MODELS = ["neural_ode", "neural_sde", "neural_cde", "linear_cde", "log_ncde", "normalising_flow", "observed_ode"]
MODELS += ["latent_sde", "ls4", "signature_regression"]
MODULES = ["nde.models", *(f"nde.models.{name}" for name in MODELS), "nde.objectives.elbo", "nde.engine.solve"]
MODULES += ["nde.paths.brownian_grid", "nde.paths.brownian_tree", "nde.paths.step_path", "nde.train.loop"]
MODULES += ["nde.diffusion.mixture", "nde.models.context_flow", "nde.fields.context_field", "nde.train.gauss_newton"]


@pytest.mark.parametrize("module", MODULES)
def test_examples_of_docstrings(module):
    # the example of L-BFGS: optax adds integers of two sizes
    with jax.numpy_dtype_promotion("standard" if module == "nde.models" else "strict"):
        failed, tried = doctest.testmod(importlib.import_module(module))
    assert tried and not failed
