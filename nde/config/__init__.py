"""A run's TOML file, validated, and the objects that it stands for. Only this folder turns names into objects.

The key `kind` at the top says what is fitted, and with it which sections there are: each kind is a module here with a
`nde.config.RunConfig` of its own, entered in `nde.config.parse.CONFIGS`.
"""

from nde.config.cde_classifier import (
    build_cde_classifier as build_cde_classifier,
    build_gru_classifier as build_gru_classifier,
    CDEClassifierConfig as CDEClassifierConfig,
    steps_needed as steps_needed,
)
from nde.config.cnf import build_flow as build_flow, CNFConfig as CNFConfig
from nde.config.latent_sde import (
    build_model as build_model,
    build_objective as build_objective,
    build_task as build_task,
    DataConfig as DataConfig,
    EvaluateConfig as EvaluateConfig,
    LatentSDEConfig as LatentSDEConfig,
    ModelConfig as ModelConfig,
    ObjectiveConfig as ObjectiveConfig,
)
from nde.config.ode import build_observed_ode as build_observed_ode, ODEConfig as ODEConfig
from nde.config.parse import (
    ConfigError as ConfigError,
    load_config as load_config,
    parse_config as parse_config,
    save_config as save_config,
)
from nde.config.regularise import (
    build_regulariser as build_regulariser,
    build_share as build_share,
    RegulariseConfig as RegulariseConfig,
)
from nde.config.resume import (
    CHANGEABLE as CHANGEABLE,
    changed_keys as changed_keys,
    may_change as may_change,
)
from nde.config.sections import (
    build_schedule as build_schedule,
    build_update as build_update,
    RunConfig as RunConfig,
    Section as Section,
    TrainConfig as TrainConfig,
)
