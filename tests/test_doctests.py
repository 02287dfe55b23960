"""The examples of docstrings give what they print."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("module", ["nde.models.neural_ode", "nde.models.neural_cde"])
def test_examples_of_docstrings(module):
    failed, tried = doctest.testmod(importlib.import_module(module))
    assert tried and not failed
