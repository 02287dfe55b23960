"""What must stand in the environment before JAX starts: where the tests run, and how they are compiled.

Subprocesses and the notebooks' kernels inherit it.
"""

import importlib.metadata
import os

# The CPU unless JAX_PLATFORMS says otherwise; an accelerator's compile times would dominate the tests.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Compiling is most of what the tests cost, and their problems are too small to repay optimised code. The second flag
# makes LLVM's input of a fusion in XLA itself, where the default is several passes of MLIR for each fusion: it is what
# halves the time of compiling. XLA aborts at flags that it does not know, so it is given to versions known to have it.
FLAGS = ["--xla_backend_optimization_level=0"]
if importlib.metadata.version("jaxlib").startswith("0.10."):
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
given = os.environ.get("XLA_FLAGS", "").split()
names = {flag.split("=")[0] for flag in given}
os.environ["XLA_FLAGS"] = " ".join([*given, *(flag for flag in FLAGS if flag.split("=")[0] not in names)])
