"""Tables in, batches out.

A table of irregular observations becomes a `nde.data.Panel`: every series padded to one number of rows, with a
mask of what was observed. `nde.data.split_series` divides it by series, a `nde.data.Normaliser` fitted on the
training part brings the channels to one scale, and `nde.data.index_batches` says which series make up which batch.
A `nde.data.LabelledPanel` is one whose series belong to classes; `nde.data.DENSITIES` are laws of points.
"""

from nde.data.batches import index_batches as index_batches
from nde.data.densities import DENSITIES as DENSITIES, Density as Density, sample_density as sample_density
from nde.data.files import read_table as read_table, Table as Table
from nde.data.informative import refuse_empty_channels as refuse_empty_channels
from nde.data.labelled import (
    LabelledPanel as LabelledPanel,
    remove_at_random as remove_at_random,
    split_published as split_published,
)
from nde.data.layout import DATE_UNITS as DATE_UNITS, TableError as TableError, TableFormat as TableFormat
from nde.data.lynx_hare import load_lynx_hare as load_lynx_hare, lynx_hare_path as lynx_hare_path
from nde.data.motions import load_basic_motions as load_basic_motions
from nde.data.normalise import Normaliser as Normaliser
from nde.data.panel import Panel as Panel, TableRows as TableRows
from nde.data.pbc import load_pbc as load_pbc, PBC_LABS as PBC_LABS, PBC_LOG as PBC_LOG, pbc_path as pbc_path
from nde.data.split import Split as Split, split_series as split_series
from nde.data.synthetic import (
    make_pendulum as make_pendulum,
    make_spirals as make_spirals,
    pendulum_drag as pendulum_drag,
)
from nde.data.table import panel_of as panel_of, read_panel as read_panel
