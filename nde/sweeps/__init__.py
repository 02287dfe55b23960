"""A sweep: many runs of one config, over settings and seeds, whose validation scores choose.

sweep.toml             the grid, and the overrides over the config
config.toml            the config, as it was given
journal.log            Optuna's journal: settings, scores, what became of each
trial_007/             a run's folder, as `nde fit` leaves it; with several seeds `trial_007_seed_0/`, …
results.csv            a row a setting, the best first
results.json           the same, with the score of each seed
sweep.png              scores against what was varied, and validation curves
locks/                 who is at what; empty files

The settings are proposed and pruned by Optuna, an extra. It needs no daemon and no server: its journal is one file that
is only appended to, which several processes, also of several machines with a common folder, write at once, and which a
process that is killed leaves whole. Ray Tune would bring a cluster's runtime, with trials in processes that it owns;
here a trial is a run's folder like any other, and whoever finds it goes on with it from its checkpoint.

**Limits:** the locks are `flock`'s, so not for Windows, and between machines for file systems that carry them. All keys
of a grid are varied in each trial: there is no key that depends on another's value.
"""

from nde.sweeps.figure import plot_sweep as plot_sweep
from nde.sweeps.grid import Grid as Grid, read_grid as read_grid
from nde.sweeps.kept import Kept as Kept
from nde.sweeps.make import go_on as go_on, new_place as new_place, Sweep as Sweep, sweep as sweep
