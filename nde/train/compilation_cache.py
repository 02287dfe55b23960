"""Compiled programs on disk, so that a second start need not compile them again."""

import os
import sys
from pathlib import Path

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache


def compiled_folder() -> Path:
    """Where programs are kept: `nde/compiled` in the user's folder for caches."""
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "nde" / "compiled"


def keep_compiled() -> None:
    """Turn on JAX's persistent cache of compiled programs, in `nde.train.compiled_folder()`.

    What JAX's own variables say, `JAX_COMPILATION_CACHE_DIR` and those beside it, holds before this, and so does
    `JAX_ENABLE_COMPILATION_CACHE=false`. A program is found again by the same versions of JAX on the same machine, for
    the same shapes.

    **Limits:** tracing is done each time. Nothing is ever removed, though the folder may be deleted at any time;
    `JAX_COMPILATION_CACHE_MAX_SIZE` bounds it, in bytes, where the package filelock is installed.
    """
    settings = {
        "jax_compilation_cache_dir": str(compiled_folder()),
        "jax_persistent_cache_min_compile_time_secs": 0.2,
    }
    for name, value in settings.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    reset_cache()  # JAX has made up its mind at its first compilation, as early as the import of a module
