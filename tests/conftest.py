"""Double precision on, implicit broadcasting of ranks an error, warnings errors (pyproject.toml)."""

import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
