"""Double precision on, implicit promotion of dtypes and ranks an error, warnings errors (pyproject.toml)."""

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Modules that run under JAX's standard promotion of dtypes, and why; every other one runs under "strict".
MIXED = "data of one float dtype in a model of another are promoted"
UNTRIED = "not yet gone through under strict promotion"
STANDARD = {"test_fields": MIXED, "test_plain_models": MIXED}
STANDARD |= dict.fromkeys(
    [
        "test_baselines",
        "test_bench_page",
        "test_cli",
        "test_config",
        "test_continuous",
        "test_data",
        "test_doctests",
        "test_flow_run",
        "test_heuristics",
        "test_inspect",
        "test_lowering",
        "test_models",
        "test_ode_runs",
        "test_orders",
        "test_paths",
        "test_pool",
        "test_readme",
        "test_regularised_runs",
        "test_report",
        "test_rex",
        "test_srk",
        "test_tables",
        "test_use",
    ],
    UNTRIED,
)


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
