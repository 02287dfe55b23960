"""What must stand in the environment before JAX starts: where the tests run, and how they are compiled.

Subprocesses and the notebooks' kernels inherit it.
"""

import os

# The CPU unless JAX_PLATFORMS says otherwise; an accelerator's compile times would dominate the tests.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# The linear algebra here is small, and two threads that share it wait for each other where other processes, such as the
# second one of the tests, want the cores: the baselines' tests take half the time with one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Compiling is most of what the tests cost, and their problems are too small to repay optimised code. Turning XLA's
# fusion emitters off as well would save more, but a gradient of the heuristics by the reversible adjoint then takes
# more memory to compile than the machine has.
FLAGS = ["--xla_backend_optimization_level=0"]
given = os.environ.get("XLA_FLAGS", "").split()
names = {flag.split("=")[0] for flag in given}
os.environ["XLA_FLAGS"] = " ".join([*given, *(flag for flag in FLAGS if flag.split("=")[0] not in names)])
