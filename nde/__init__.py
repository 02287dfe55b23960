"""nde: neural differential equations in JAX.

Data make paths; fields and paths make terms; the engine solves terms; a model wraps that; an objective scores it;
training improves it. The daily names are here; each layer's own overview is the docstring of its folder: `nde.data`,
`nde.fields`, `nde.paths`, `nde.terms`, `nde.solvers`, `nde.diffusion`, `nde.adjoints`, `nde.engine`,
`nde.regularise`, `nde.models`, `nde.objectives`, `nde.train`, `nde.report`, `nde.config`, `nde.tasks`, `nde.runs`
and `nde.sweeps`; `nde.fit` does what the command line does.

Terms, solvers, step-size controllers, adjoints, paths and what else a solve needs are diffrax's own, under the same
names: what its documentation says of `diffrax.Tsit5` holds for `nde.Tsit5`.
"""

import importlib
import pkgutil
from importlib.metadata import version
from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
    from nde.names import *  # noqa: F403  (for editors and checkers; at run time `__getattr__` gives the same names)
    from nde.runs import (
        export_run as export_run,
        fit as fit,
        load_exported as load_exported,
        open_run as open_run,
        Run as Run,
    )
    from nde.sweeps import sweep as sweep

__version__ = version("nde")


# JAX, diffrax and what they need take seconds to import, for which `nde --help` and `nde.__version__` do not wait: the
# daily names and the layers are imported when the first of them is asked for (PEP 562).
def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    if name in _layers():
        return importlib.import_module(f"nde.{name}")
    if name == "sweep":
        return importlib.import_module("nde.sweeps").sweep
    if name in _OF_RUNS:  # which need matplotlib, polars and more: the other names do not wait for these
        return getattr(importlib.import_module("nde.runs"), name)
    names = importlib.import_module("nde.names")
    try:
        value = getattr(names, name)
    except AttributeError:
        raise AttributeError(f"module 'nde' has no attribute '{name}'") from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    names = importlib.import_module("nde.names")
    return sorted(
        {*globals(), *_layers(), *_OF_RUNS, "sweep", *(name for name in vars(names) if not name.startswith("_"))}
    )


_OF_RUNS = ("export_run", "fit", "load_exported", "open_run", "Run")


def _layers() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__)]  # noqa: F405  (`__path__` is Python's own)
