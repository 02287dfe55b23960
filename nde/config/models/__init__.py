"""The models that a config can name, a file each: `[[model]] name = "…"`."""

from nde.config.models.base import (
    ModelSection as ModelSection,
    PointFacts as PointFacts,
    SeriesFacts as SeriesFacts,
)
from nde.config.models.controlled_sde import ControlledSDEModel
from nde.config.models.design import DesignModel
from nde.config.models.diffusion import DiffusionSection
from nde.config.models.encoder_decoder import EncoderDecoderModel as EncoderDecoderModel, ENCODERS as ENCODERS
from nde.config.models.flow import FlowModel
from nde.config.models.flow_matching import FlowMatchingSection
from nde.config.models.gru import GRUModel
from nde.config.models.gru_d import GRUDModel
from nde.config.models.latent_ode import LatentODEModel as LatentODEModel
from nde.config.models.latent_sde import LatentSDEModel as LatentSDEModel
from nde.config.models.linear_cde import LinearCDEModel
from nde.config.models.log_ncde import LogNCDEModel
from nde.config.models.ls4 import LS4Model
from nde.config.models.ltc import LTCModel
from nde.config.models.mixed import MixedModel as MixedModel
from nde.config.models.neural_cde import NeuralCDEModel
from nde.config.models.observed_ode import (
    HybridModel as HybridModel,
    KnownModel as KnownModel,
    NeuralODEModel as NeuralODEModel,
    system_states as system_states,
)
from nde.config.models.signature import SignatureModel

MODELS: dict[str, type[ModelSection]] = {
    "latent_sde": LatentSDEModel,
    "latent_ode": LatentODEModel,
    "encoder_decoder": EncoderDecoderModel,
    "ls4": LS4Model,
    "neural_cde": NeuralCDEModel,
    "log_ncde": LogNCDEModel,
    "controlled_sde": ControlledSDEModel,
    "linear_cde": LinearCDEModel,
    "signature": SignatureModel,
    "gru": GRUModel,
    "gru_d": GRUDModel,
    "ltc": LTCModel,
    "known": KnownModel,
    "design": DesignModel,
    "hybrid": HybridModel,
    "neural_ode": NeuralODEModel,
    "mixed": MixedModel,
    "flow": FlowModel,
    "diffusion": DiffusionSection,
    "flow_matching": FlowMatchingSection,
}


def models_of(task: str) -> list[str]:
    """The names of the models that serve a task."""
    return [name for name, section in MODELS.items() if task in section.tasks]
