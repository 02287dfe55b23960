"""`task = "dynamics"`: its series, training, scores and figures, a module each; some of it serves populations too."""

from nde.tasks.dynamics.asked import (
    Asking as Asking,
    asking_from_plain as asking_from_plain,
    asking_of as asking_of,
)
from nde.tasks.dynamics.evaluation import (
    baseline_means as baseline_means,
    baselines as baselines,
    method_row as method_row,
    parameter_notes as parameter_notes,
)
from nde.tasks.dynamics.noise import noise_numbers as noise_numbers
from nde.tasks.dynamics.parameters import Found as Found, found_of as found_of
from nde.tasks.dynamics.ported import (
    GivenArrays as GivenArrays,
    laws_of as laws_of,
    padded_inputs as padded_inputs,
    places_of as places_of,
    portable_series as portable_series,
    refuse_late as refuse_late,
    span_of as span_of,
)
from nde.tasks.dynamics.posterior import log_prior_of_coordinate as log_prior_of_coordinate
from nde.tasks.dynamics.problem import (
    describe_inputs as describe_inputs,
    DynamicsProblem as DynamicsProblem,
    load as load,
    resolve as resolve,
)
from nde.tasks.dynamics.task import DynamicsTask as DynamicsTask
from nde.tasks.dynamics.training import batched_inputs as batched_inputs, Observing as Observing
