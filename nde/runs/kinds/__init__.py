"""The kinds of runs: for each value of `kind` in a config, what it means."""

from nde.config import RunConfig
from nde.runs.interface import AbstractKind
from nde.runs.kinds.cde_classifier import CDEClassifierKind
from nde.runs.kinds.cnf import CNFKind
from nde.runs.kinds.latent_sde import LatentSDEKind
from nde.runs.kinds.ode import ODEKind

KINDS: dict[str, AbstractKind] = {
    "latent_sde": LatentSDEKind(),
    "ode": ODEKind(),
    "cde_classifier": CDEClassifierKind(),
    "cnf": CNFKind(),
}


def kind_of(config: RunConfig) -> AbstractKind:
    """What the `kind` of a config means."""
    return KINDS[config.kind]
