"""Paths: functions of time that drive an equation, as controls or as noise.

`nde.paths.BrownianGrid` is Brownian motion for steps of one size, `nde.paths.VirtualBrownianTree` for any
times. Both draw by counter, so that a path is a function of its key and the times alone, and both give the Lévy areas
that solvers ask for.

`nde.paths.series_path` is a path through an irregular series of data, some of whose values are missing. How it goes
from one to the next is a row of `nde.paths.INTERPOLATIONS`. `nde.paths.StepPath` is an input that is held between its
times, `nde.paths.Doses` one that comes at once, `nde.paths.Inputs` all that a series brings to an equation.
`nde.paths.signature` and its kin say what a path of straight lines did, in numbers that do not hang on how fast it was
run through.
"""

from nde.paths.brownian_grid import BrownianGrid as BrownianGrid
from nde.paths.brownian_tree import VirtualBrownianTree as VirtualBrownianTree
from nde.paths.counter import NOISE as NOISE
from nde.paths.doses import Doses as Doses
from nde.paths.hermite import hermite_path as hermite_path
from nde.paths.inputs import Between as Between, covariate_path as covariate_path, Inputs as Inputs
from nde.paths.levy_area import davie_foster_area as davie_foster_area, SpaceSpaceLevyArea as SpaceSpaceLevyArea
from nde.paths.linear import linear_path as linear_path, rectilinear_path as rectilinear_path
from nde.paths.lyndon import lyndon_coordinates as lyndon_coordinates, lyndon_words as lyndon_words
from nde.paths.natural_cubic import natural_cubic_path as natural_cubic_path
from nde.paths.pieces import Pieces as Pieces, pieces_of as pieces_of
from nde.paths.series import (
    CAUSAL as CAUSAL,
    check_interpolation as check_interpolation,
    Interpolation as Interpolation,
    INTERPOLATIONS as INTERPOLATIONS,
    series_path as series_path,
    SeriesPath as SeriesPath,
)
from nde.paths.signatures import (
    log_signature as log_signature,
    running_signatures as running_signatures,
    signature as signature,
    window_signatures as window_signatures,
)
from nde.paths.step_path import StepPath as StepPath
from nde.paths.tensors import (
    chen_product as chen_product,
    exp_tensor as exp_tensor,
    flatten_levels as flatten_levels,
    Levels as Levels,
    log_tensor as log_tensor,
    split_levels as split_levels,
    words as words,
)
from nde.paths.windows import (
    log_signature_path as log_signature_path,
    RowWindows as RowWindows,
    TimeWindows as TimeWindows,
)
