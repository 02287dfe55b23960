"""What nde takes of diffrax's private parts, and that it is still there."""

import diffrax
from diffrax import _integrate

from nde.diffrax_internals import missing_parts


def test_this_diffrax_has_the_parts_that_the_engine_rides_on():
    """On a failure: `nde.diffrax_internals` is the one file to change, and pyproject.toml the versions it is for."""
    assert missing_parts() == [], f"diffrax {diffrax.__version__} differs from what nde.diffrax_internals knows"


def test_what_another_version_lacks_or_adds_is_named(monkeypatch):
    class SaveState(diffrax.AbstractTerm):  # any class with fields
        ts: int
        more: int

    monkeypatch.setattr(_integrate, "SaveState", SaveState)
    found = missing_parts()
    assert "diffrax._integrate.SaveState has no field save_index" in found
    assert "diffrax._integrate.SaveState has a new field more" in found
    monkeypatch.delattr(_integrate, "SaveState")
    assert "diffrax._integrate.SaveState is gone" in missing_parts()
