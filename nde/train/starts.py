"""Several starts of a training, of which the best is kept."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from jaxtyping import PyTree

from nde.train.failures import TrainingFailed
from nde.train.state import TrainState


@dataclass(frozen=True)
class Tried:
    """What came of a start: the `score` of its validation, infinite where it failed, and why it did, `failure`."""

    score: float
    failure: str | None = None


def best_start(
    models: Iterable[PyTree],
    train: Callable[[PyTree], TrainState],
    told: Callable[[int, Tried], None] = lambda number, tried: None,
) -> tuple[PyTree, list[Tried]]:
    """Train a little from each start, and keep what the best has become.

    A loss of a trajectory has many minima, such as one for each multiple of a frequency, and no descent leaves the
    basin that it began in. Starts are cheap beside a whole training, and one in the right basin is enough.

    **Arguments:** `models`: the starts, one after another; `train`: a short training, `model -> nde.train.TrainState`,
    that ends with a validation, such as by `nde.train.fit`; `told`: called with the number of each start, from zero,
    and its `nde.train.Tried`.

    **Returns:** the model after the short training with the lowest score, and what came of each start.

    **Raises:** `nde.train.TrainingFailed`, that of the first, if all starts fail.

    **Source:** Raue et al., *Lessons learned from quantitative dynamical modeling in systems biology*, PLoS ONE 2013,
    who find starts drawn over the bounds and descents from each to beat global optimisers.
    """
    tried, best, lowest, first = [], None, math.inf, None
    for number, model in enumerate(models):
        try:
            state = train(model)
            score = float(state.best_score)
            tried.append(Tried(score, None if math.isfinite(score) else "it could not be validated"))
            if score < lowest:
                best, lowest = state.model, score
        except TrainingFailed as error:
            first = first or error
            tried.append(Tried(math.inf, str(error).rstrip(".")))
        told(number, tried[-1])
    if best is None:
        raise first or TrainingFailed("none of the starts could be validated")
    return best, tried
