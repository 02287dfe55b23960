"""What a channel's law can have: values within its limits of quantification, counts, answers."""

from dataclasses import replace

import numpy as np

from nde.config import ObserveConfig
from nde.data import Panel
from nde.tasks.base import RunError


def within_limits(observe: ObserveConfig, panel: Panel, source: str) -> Panel:
    """The panel with values beyond a limit of quantification on it, however the table writes them.

    **Raises:** `RunError` for values that the law of their channel can not have; it calls the table `source`.
    """
    if observe.below or observe.above:
        low, high = (
            np.array([limits.get(channel, far) for channel in panel.channels])
            for limits, far in ((observe.below, -np.inf), (observe.above, np.inf))
        )
        panel = replace(panel, values=np.where(panel.mask, np.clip(panel.values, low, high), panel.values))
    check_values(observe, panel, source)
    return panel


def check_values(observe: ObserveConfig, panel: Panel, source: str) -> None:
    """Refuse values that the law of their channel can not have.

    **Raises:** `RunError`, and for a law or a limit of a channel that there is not.
    """
    try:
        noise = observe.noise_of(panel.channels)
    except ValueError as error:
        raise RunError(f"observe.{error}.") from None
    for c, (channel, law) in enumerate(noise.items()):
        seen = panel.values[..., c][panel.mask[..., c]]
        wrong = {
            "poisson": (seen < 0) | (seen != np.round(seen)),
            "bernoulli": (seen != 0) & (seen != 1),
            "log_normal": seen <= 0,
        }.get(law, np.zeros(len(seen), bool))
        if wrong.any():
            needs = {"poisson": "counts, 0, 1, 2, …", "bernoulli": "0 or 1"}.get(law, "positive values")
            raise RunError(
                f"{source}: '{channel}' has noise '{law}', which is of {needs}, but one is {seen[wrong][0]:g}."
            )
