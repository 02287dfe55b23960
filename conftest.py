"""Run the tests on the CPU unless JAX_PLATFORMS says otherwise; an accelerator's compile times would dominate them."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
