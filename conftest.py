"""What must stand in the environment before JAX starts: where the tests run, and how they are compiled.

Subprocesses and the notebooks' kernels inherit it.
"""

import os
from importlib.metadata import version

# The CPU unless JAX_PLATFORMS says otherwise; an accelerator's compile times would dominate the tests.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# The linear algebra here is small, and two threads that share it wait for each other where other processes, such as the
# second one of the tests, want the cores: the baselines' tests take half the time with one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Compiling is most of what the tests cost, and their problems are too small to repay optimised code. Without XLA's
# fusion emitters it takes half the time; a jaxlib that does not know a flag stops, so that this one is asked for by
# versions that are known to have it.
FLAGS = ["--xla_backend_optimization_level=0"]
if version("jaxlib").startswith("0.10."):
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
given = os.environ.get("XLA_FLAGS", "").split()
names = {flag.split("=")[0] for flag in given}
os.environ["XLA_FLAGS"] = " ".join([*given, *(flag for flag in FLAGS if flag.split("=")[0] not in names)])
