"""Divide a panel by series, never within one."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Split:
    """Which series are fitted on, which stop the training, which are scored: three disjoint sorted index arrays."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    @property
    def fold(self) -> np.ndarray:
        """Training and validation series together: all that a method may learn from."""
        return np.sort(np.concatenate([self.train, self.validation]))


def split_series(num_series: int, *, fold: int = 0, folds: int = 5, validation: float = 0.15, seed: int = 0) -> Split:
    """Split series into training, validation and test by a random permutation.

    Series `fold`, `fold + folds`, … of the permutation are the test part, so that over all folds each series is tested
    once; a share `validation` of the others is the validation part.

    **Arguments:** `num_series`: how many there are; `fold` in `0 … folds - 1`, and of one fold all series are both
    trained on and tested; `validation` in [0, 1), of zero the part is empty; `seed` of the permutation.

    **Raises:** `ValueError` if a part would be empty.
    """
    if not 0 <= fold < folds:
        raise ValueError(f"fold must be in 0 … {folds - 1} for {folds} folds, but is {fold}.")
    if not 0 <= validation < 1:
        raise ValueError(f"validation must be a share in [0, 1), but is {validation}.")
    order = np.random.default_rng(seed).permutation(num_series)
    test = order[fold::folds]
    rest = np.setdiff1d(order, test) if folds > 1 else order
    rest = np.random.default_rng([seed, fold]).permutation(rest)
    held = int(np.ceil(validation * len(rest)))
    parts = {"test": test, "validation": rest[:held], "training": rest[held:]}
    empty = [name for name, part in parts.items() if len(part) == 0 and (name != "validation" or validation > 0)]
    if empty:
        raise ValueError(
            f"{num_series} series in {folds} folds with validation={validation} leave the {empty[0]} part empty; "
            "use more series or fewer folds."
        )
    return Split(np.sort(parts["training"]), np.sort(parts["validation"]), np.sort(test))
