"""Data sets that ship with nde, are made, or come with a package, one a file, and the table of them.

**To add one**: a file here with a loader and a `nde.data.Dataset`, and its row in `DATASETS`. Every task that its shape
suits can then be given it by name.
"""

from nde.data.datasets.base import Dataset as Dataset
from nde.data.datasets.basic_motions import BASIC_MOTIONS, load_basic_motions as load_basic_motions
from nde.data.datasets.digits import DIGITS, load_digits as load_digits
from nde.data.datasets.japanese_vowels import JAPANESE_VOWELS, load_japanese_vowels as load_japanese_vowels
from nde.data.datasets.labelled_spirals import LABELLED_SPIRALS, make_labelled_spirals as make_labelled_spirals
from nde.data.datasets.lynx_hare import (
    load_lynx_hare as load_lynx_hare,
    LYNX_HARE,
    lynx_hare_path as lynx_hare_path,
)
from nde.data.datasets.ornstein_uhlenbeck import ORNSTEIN_UHLENBECK
from nde.data.datasets.pbc import (
    load_pbc as load_pbc,
    PBC,
    PBC_LABS as PBC_LABS,
    PBC_LOG as PBC_LOG,
    pbc_path as pbc_path,
)
from nde.data.datasets.pickup_gesture import load_pickup_gesture as load_pickup_gesture, PICKUP_GESTURE
from nde.data.datasets.plane import DENSITIES as DENSITIES, Density as Density, PLANE, sample_density as sample_density
from nde.data.datasets.simulated import (
    make_pendulum as make_pendulum,
    make_spirals as make_spirals,
    PENDULUM,
    pendulum_drag as pendulum_drag,
    SPIRALS,
)
from nde.data.datasets.stochastic_lorenz import (
    make_stochastic_lorenz as make_stochastic_lorenz,
    STOCHASTIC_LORENZ,
)
from nde.data.datasets.theophylline import (
    load_theophylline as load_theophylline,
    THEOPHYLLINE,
    theophylline_path as theophylline_path,
)

DATASETS: dict[str, Dataset] = {
    "pbc": PBC,
    "lynx_hare": LYNX_HARE,
    "theophylline": THEOPHYLLINE,
    "basic_motions": BASIC_MOTIONS,
    "japanese_vowels": JAPANESE_VOWELS,
    "pickup_gesture": PICKUP_GESTURE,
    "labelled_spirals": LABELLED_SPIRALS,
    "ornstein_uhlenbeck": ORNSTEIN_UHLENBECK,
    "stochastic_lorenz": STOCHASTIC_LORENZ,
    "spirals": SPIRALS,
    "pendulum": PENDULUM,
    "digits": DIGITS,
    **PLANE,
}
"""By the name that a config gives."""
