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
    tried, best, first = [], None, None
    for number, model in enumerate(models):
        try:
            state = train(model)
            tried.append(Tried(float(state.best_score), None if _validated(state) else "it could not be validated"))
            if _validated(state) and tried[-1].score <= min(one.score for one in tried):
                best = state.model
        except TrainingFailed as error:
            first = first or error
            tried.append(Tried(math.inf, str(error).rstrip(".")))
        told(number, tried[-1])
    if best is None:
        raise first or TrainingFailed("none of the starts could be validated")
    return best, tried


def _validated(state: TrainState) -> bool:
    return math.isfinite(float(state.best_score))
