"""Strong orders of convergence, to a tenth: the full table is in tests/bench/orders.py."""

import diffrax
import pytest
from problems import PROBLEMS, slope, strong_errors

STEPS = [16, 32, 64]
ORDERS = [
    ("geometric, Itô", diffrax.Euler(), 0.5),
    ("geometric", diffrax.SPaRK(), 1.0),
    ("geometric", diffrax.SlowRK(), 1.5),
]


@pytest.mark.parametrize(("problem", "solver", "order"), ORDERS, ids=lambda x: type(x).__name__)
def test_the_strong_order(problem, solver, order):
    errors = strong_errors(PROBLEMS[problem], solver, STEPS, paths=2000)
    assert abs(slope(STEPS, errors) - order) < 0.1
