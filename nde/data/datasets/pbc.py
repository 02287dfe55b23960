"""The Mayo Clinic primary biliary cirrhosis (PBC) follow-up."""

from importlib import resources
from pathlib import Path

from nde.data.datasets.base import Dataset
from nde.data.layout import TableFormat
from nde.data.panel import Panel
from nde.data.table import read_panel

PBC_LABS = ("bili", "chol", "albumin", "alk.phos", "ast", "platelet", "protime")
"""The seven laboratory channels: bilirubin (mg/dl), cholesterol (mg/dl), albumin (g/dl), alkaline phosphatase (U/l),
aspartate aminotransferase (U/ml), platelets (per µl / 1000), prothrombin time (s)."""

PBC_LOG = ("bili", "chol", "alk.phos", "ast", "protime")
"""The channels that are skewed to the right, to be put on a log scale."""

LAYOUT = {"id": "id", "time": "day", "channels": PBC_LABS, "time_scale": 365.25, "time_unit": "years"}
UNITS = dict(zip(PBC_LABS, ("mg/dl", "mg/dl", "g/dl", "U/l", "U/ml", "10³/µl", "s"), strict=True))


def pbc_path() -> Path:
    """The table as it ships with nde: a wide CSV file, `day` since entry, one row a visit."""
    return Path(str(resources.files("nde.data") / "pbcseq.csv"))


def load_pbc() -> Panel:
    """The Mayo Clinic PBC follow-up: 312 patients, 1945 visits at irregular times, seven laboratory channels.

    **Returns:** a `nde.data.Panel` with times in years since entry and values in their own units.

    **Source:** Therneau and Grambsch, *Modeling Survival Data*, Springer 2000; `pbcseq` of the R package survival.
    """
    return read_panel(pbc_path(), TableFormat(**LAYOUT))


PBC = Dataset(load_pbc, "series", path=pbc_path, defaults={**LAYOUT, "log": PBC_LOG, "units": UNITS})
