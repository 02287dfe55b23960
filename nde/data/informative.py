"""Refuse what holds nothing to learn, before it becomes a NaN."""

import numpy as np
from jaxtyping import Bool

from nde.data.layout import TableError
from nde.data.panel import Panel


def refuse_empty_channels(panel: Panel, fitted: Bool[np.ndarray, "series rows channels"], *, source: object) -> None:
    """Refuse a channel that has no value among those to fit, or only ever the same one.

    Its spread would be unknown or zero, and with it the unit that it is learned in, its noise and every baseline.

    **Arguments:** `panel`: all series; `fitted`: which of its entries are fitted; `source`: what the message calls the
    data, mostly the table's path.

    **Raises:** `TableError` that names each such channel, says whether it is measured elsewhere, and lists the
    channels that are left.
    """
    why = {}
    for c, name in enumerate(panel.channels):
        seen = panel.values[..., c][fitted[..., c]]
        if seen.size == 0:
            elsewhere = int(panel.mask[..., c].sum())
            why[name] = f"has no value to fit (all of its {elsewhere} lie in what is held out)"
        elif np.ptp(seen) == 0:
            why[name] = f"is {seen[0]:g} wherever it is fitted"
    if why:
        kept = ", ".join(repr(name) for name in panel.channels if name not in why)
        said = "; ".join(f"channel '{name}' {reason}" for name, reason in why.items())
        remedy = f"leave it out by data.channels=[{kept}]" if kept else "no other channel is left"
        raise TableError(f"{source}: {said}: nothing can be learned of it; {remedy}.")
