"""Double precision on, implicit promotion of dtypes and ranks an error, warnings errors (pyproject.toml)."""

import jax
import pytest

from nde.train import compilation_cache

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Modules that run under JAX's standard promotion of dtypes, and why; every other one runs under "strict".
STANDARD: dict[str, str] = {}


@pytest.fixture(autouse=True, scope="session")
def programs_of_this_session(tmp_path_factory):
    """`nde fit` keeps compiled programs in the user's folder; what a test compiles must not depend on what is there."""
    folder = tmp_path_factory.mktemp("compiled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compilation_cache, "compiled_folder", lambda: folder)
        yield


@pytest.fixture(autouse=True, scope="module")
def precision_and_programs(request):
    """Strict promotion of dtypes, but in the modules listed above; no compiled program outlives its module.

    So the memory of the suite stays below some 2 GB a process.
    """
    name = request.module.__name__.rpartition(".")[2]
    jax.config.update("jax_numpy_dtype_promotion", "standard" if name in STANDARD else "strict")
    yield
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.clear_caches()
