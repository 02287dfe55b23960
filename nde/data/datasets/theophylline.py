"""Theophylline in the blood of twelve subjects after an oral dose."""

from importlib import resources
from pathlib import Path

from nde.data.datasets.base import Dataset
from nde.data.input_table import read_panel_with_inputs
from nde.data.inputs_layout import DoseFormat, InputsFormat
from nde.data.layout import TableFormat
from nde.data.panel import Panel
from nde.data.series_inputs import SeriesInputs

LAYOUT = {"id": "subject", "time": "time_h", "channels": ("conc_mg_per_L",), "time_unit": "hours"}
DOSES = DoseFormat(amount="dose_mg", state="gut")


def theophylline_path() -> Path:
    """The table as it ships with nde: `subject`, `weight_kg`, `dose_mg_per_kg`, `time_h`, `conc_mg_per_L`, and
    `dose_mg`, that dose times the weight, in the row at time zero alone, where it is given."""
    return Path(str(resources.files("nde.data") / "theophylline.csv"))


def load_theophylline() -> tuple[Panel, SeriesInputs]:
    """Theophylline in serum: 12 subjects, 11 samples each over 25 hours after an oral dose.

    **Returns:** a `nde.data.Panel` of `conc_mg_per_L` and the `nde.data.SeriesInputs`: the dose into `gut` at
    time zero, in mg, which is that of the source in mg/kg times the weight; and `weight_kg`, a constant.

    **Source:** Boeckmann, Sheiner and Beal, *NONMEM Users Guide, Part V*, 1994; `Theoph` of R's package datasets.
    """
    inputs = InputsFormat(DOSES, constants=("weight_kg",))
    return read_panel_with_inputs(theophylline_path(), TableFormat(**LAYOUT), inputs, ("gut", "central"))


THEOPHYLLINE = Dataset(
    lambda: load_theophylline()[0],
    "series",
    path=theophylline_path,
    defaults={**LAYOUT, "doses": {"amount": DOSES.amount, "state": DOSES.state}, "constants": ("weight_kg",)},
)
