"""PickupGestureWiimoteZ: which of ten people picked up, from one axis of an accelerometer."""

from nde.data.datasets.aeon import load_aeon
from nde.data.datasets.base import Dataset
from nde.data.labelled import LabelledPanel


def load_pickup_gesture() -> LabelledPanel:
    """PickupGestureWiimoteZ: 100 series of 29 to 361 rows, 50 of them published for training and 50 for testing.

    Ten people made the same gesture, *pick up*, ten times each with a Nintendo Wiimote, and its acceleration along z
    was recorded, in multiples of that of gravity as it seems (at rest the values are about one; the files state no
    unit). Five series of each person are in either part. The values come with the package aeon (1.0 or later), which
    is read and never asked to download anything.

    **Returns:** a `nde.data.LabelledPanel` with the channel `acceleration z`, complete values, rows past a series' end
    that repeat its last time and hold nothing, and the classes `1` … `10`, the people; series `train 1` … `train 50`
    stand before `test 1` … `test 50`. The published files have no rate of sampling: times are counted in samples.

    **Raises:** `TableError` that says what to install if aeon is absent.

    **Source:** Guna, Humar, Pogačnik, *Intuitive gesture based user identification system*, TSP 2012; edited by H. A.
    Dau for the UCR archive (Dau et al. 2019, arXiv 1810.07758), which states no licence.
    """
    return load_aeon(
        "PickupGestureWiimoteZ",
        "load_pickup_gesture_wiimoteZ",
        interval=1.0,
        channels=("acceleration z",),
        time_unit="samples",
    )


PICKUP_GESTURE = Dataset(load_pickup_gesture, "labelled")
