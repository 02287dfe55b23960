"""The daily names: `import nde` is enough, and what is diffrax's stays diffrax's."""

import ast
from pathlib import Path

import diffrax
import pytest

import nde

NEEDED = [
    "ODETerm",
    "ControlTerm",
    "MultiTerm",
    "SaveAt",
    "SubSaveAt",
    "Event",
    "Solution",
    "RESULTS",
    "steady_state_event",
    "Euler",
    "Heun",
    "Midpoint",
    "Ralston",
    "Bosh3",
    "Tsit5",
    "Dopri5",
    "Dopri8",
    "ImplicitEuler",
    "Kvaerno3",
    "Kvaerno4",
    "Kvaerno5",
    "KenCarp3",
    "KenCarp4",
    "KenCarp5",
    "EulerHeun",
    "ItoMilstein",
    "StratonovichMilstein",
    "SPaRK",
    "ShARK",
    "SRA1",
    "GeneralShARK",
    "SlowRK",
    "SEA",
    "ReversibleHeun",
    "LeapfrogMidpoint",
    "SemiImplicitEuler",
    "HalfSolver",
    "ConstantStepSize",
    "StepTo",
    "PIDController",
    "ClipStepSizeController",
    "BrownianIncrement",
    "SpaceTimeLevyArea",
    "SpaceTimeTimeLevyArea",
    "LinearInterpolation",
    "CubicInterpolation",
    "backward_hermite_coefficients",
]


def exported():
    """The names that `nde/names.py` takes from diffrax."""
    tree = ast.parse(Path(nde.__file__).with_name("names.py").read_text())
    taken = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "diffrax"]
    return [alias.asname for node in taken for alias in node.names]


@pytest.mark.parametrize("name", NEEDED)
def test_daily_name_is_there(name):
    assert name in exported()


@pytest.mark.parametrize("name", exported())
def test_name_is_diffrax_own_object(name):
    assert getattr(nde, name) is getattr(diffrax, name)
