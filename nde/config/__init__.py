"""A run's TOML file, validated, and the objects that it stands for. Only this folder turns names into objects.

`task` says what for, and with it which sections there are: each task has a module here, entered in
`nde.config.parse.CONFIGS`. `[[model]]` says what with: each model has a module in `nde.config.models`, entered in
`nde.config.MODELS`. `[data]` names a table or a data set of `nde.data.DATASETS`.
"""

from nde.config.classify import ClassifyConfig as ClassifyConfig
from nde.config.closed_form import ClosedFormConfig as ClosedFormConfig
from nde.config.density import DensityConfig as DensityConfig
from nde.config.dynamics import DynamicsConfig as DynamicsConfig
from nde.config.forecast import (
    ELBOConfig as ELBOConfig,
    ForecastConfig as ForecastConfig,
    ForecastEvaluate as ForecastEvaluate,
)
from nde.config.generate import GenerateConfig as GenerateConfig
from nde.config.models import (
    HybridModel as HybridModel,
    LatentSDEModel as LatentSDEModel,
    MixedModel as MixedModel,
    MODELS as MODELS,
    models_of as models_of,
    ModelSection as ModelSection,
    PointFacts as PointFacts,
    SeriesFacts as SeriesFacts,
    system_states as system_states,
)
from nde.config.numerics import (
    build_numerics as build_numerics,
    merged as merged,
    SolverConfig as SolverConfig,
    SOLVERS as SOLVERS,
)
from nde.config.observe import DynamicsFacts as DynamicsFacts, ObserveConfig as ObserveConfig
from nde.config.own_code import give_again as give_again, OwnCode as OwnCode
from nde.config.parse import (
    ConfigError as ConfigError,
    load_config as load_config,
    parse_config as parse_config,
    save_config as save_config,
)
from nde.config.points import PointsData as PointsData
from nde.config.population import PopulationConfig as PopulationConfig
from nde.config.regularise import (
    build_loss as build_loss,
    build_regulariser as build_regulariser,
    build_share as build_share,
    RegulariseConfig as RegulariseConfig,
)
from nde.config.resume import (
    CHANGEABLE as CHANGEABLE,
    changed_keys as changed_keys,
    may_change as may_change,
)
from nde.config.run import Member as Member, RunConfig as RunConfig
from nde.config.sections import (
    build_schedule as build_schedule,
    build_update as build_update,
    Section as Section,
    TrainConfig as TrainConfig,
)
from nde.config.table import TableData as TableData
