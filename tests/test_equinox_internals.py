"""What nde takes of Equinox's private parts, and that it is still there."""

import equinox as eqx
import equinox._errors as errors
import jax.numpy as jnp
import numpy as np
import pytest

from nde.equinox_internals import missing_parts, on_error


def test_this_equinox_has_the_part_that_says_what_a_check_does():
    """On a failure: `nde.equinox_internals` is the one file to change."""
    assert missing_parts() == []
    high = jnp.asarray(3.0)
    with on_error("nan"):
        assert np.isnan(eqx.filter_jit(lambda x: eqx.error_if(x, x > 1, "Too high."))(high))
    with pytest.raises(eqx.EquinoxRuntimeError, match="Too high"):
        eqx.filter_jit(lambda x: eqx.error_if(x, x > 1, "Too high."))(high)


def test_what_another_version_lacks_is_named(monkeypatch):
    monkeypatch.delattr(errors, "EQX_ON_ERROR")
    assert "has equinox._errors.EQX_ON_ERROR = None" in missing_parts()[0]
