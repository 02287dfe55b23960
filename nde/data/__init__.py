"""Tables in, batches out.

A table of irregular observations, or arrays (`nde.data.panel_of_arrays`), become a `nde.data.Panel`: every series
padded to one number of rows, with a mask of what was observed. `nde.data.split_series` divides it by series, a
`nde.data.Normaliser` fitted on the training part brings the channels to one scale, and `nde.data.index_batches` says
which series make up which batch. What is given to the series, doses, constants and covariates, is read beside them by
`nde.data.read_panel_with_inputs`. A `nde.data.LabelledPanel` is one whose series belong to classes. A
`nde.data.PointSet` are points without a time. `nde.data.DATASETS`
is the table of the data sets that a config can name.
"""

from nde.data.arrays import panel_of_arrays as panel_of_arrays
from nde.data.batches import (
    AbstractBatches as AbstractBatches,
    BatchesByLength as BatchesByLength,
    index_batches as index_batches,
    IndexBatches as IndexBatches,
    row_counts as row_counts,
    RowsByLength as RowsByLength,
)
from nde.data.datasets import (
    Dataset as Dataset,
    DATASETS as DATASETS,
    DENSITIES as DENSITIES,
    Density as Density,
    load_basic_motions as load_basic_motions,
    load_digits as load_digits,
    load_japanese_vowels as load_japanese_vowels,
    load_lynx_hare as load_lynx_hare,
    load_pbc as load_pbc,
    load_pickup_gesture as load_pickup_gesture,
    load_theophylline as load_theophylline,
    lynx_hare_path as lynx_hare_path,
    make_labelled_spirals as make_labelled_spirals,
    make_pendulum as make_pendulum,
    make_spirals as make_spirals,
    make_stochastic_lorenz as make_stochastic_lorenz,
    PBC_LABS as PBC_LABS,
    PBC_LOG as PBC_LOG,
    pbc_path as pbc_path,
    pendulum_drag as pendulum_drag,
    sample_density as sample_density,
    theophylline_path as theophylline_path,
)
from nde.data.files import (
    as_frame as as_frame,
    read_table as read_table,
    Table as Table,
    table_files as table_files,
    write_frame as write_frame,
)
from nde.data.informative import refuse_empty_channels as refuse_empty_channels
from nde.data.input_table import read_panel_with_inputs as read_panel_with_inputs
from nde.data.inputs_layout import DoseFormat as DoseFormat, InputsFormat as InputsFormat
from nde.data.labelled import (
    LabelledPanel as LabelledPanel,
    read_labelled_panel as read_labelled_panel,
    remove_at_random as remove_at_random,
    split_labelled as split_labelled,
)
from nde.data.layout import DATE_UNITS as DATE_UNITS, TableError as TableError, TableFormat as TableFormat
from nde.data.normalise import Normaliser as Normaliser
from nde.data.panel import Panel as Panel, TableRows as TableRows
from nde.data.points import (
    as_point_set as as_point_set,
    PointRows as PointRows,
    PointSet as PointSet,
    read_point_rows as read_point_rows,
    read_points as read_points,
)
from nde.data.series_inputs import SeriesInputs as SeriesInputs
from nde.data.split import Split as Split, split_series as split_series
from nde.data.table import panel_of as panel_of, read_panel as read_panel
