"""Several processes that train together: how they find each other, and what they decide alike."""

import json
import os
import sys
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

Value = TypeVar("Value", str, float, bool)
LONGEST = 4096
NUMBER, PLACE = "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


def join_processes() -> None:
    """Make this process one of those that train together; before any other use of JAX.

    Where they meet, how many they are and which this is, SLURM and Open MPI tell JAX; else it stands in the environment
    as `JAX_COORDINATOR_ADDRESS`, such as `node0:1234` on the first of them, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`,
    from zero. See `jax.distributed.initialize`.

    If one of them dies, JAX ends the others when its heartbeats are missed, a minute or two later and with a trace of
    its own; start all of them anew with `--resume`, and the run goes on from its last checkpoint to the same bits.

    **Raises:** `ValueError` if neither says it.
    """
    said = [os.environ.get(name) for name in (NUMBER, PLACE)]
    if any(value is not None and not value.isdigit() for value in said):
        raise ValueError(f"{NUMBER} and {PLACE} must be whole numbers, but are {' and '.join(map(str, said))}.")
    number, place = (None if value is None else int(value) for value in said)
    if number is not None and number > 1:  # JAX waits for minutes, and then ends the process without a word of Python's
        where = os.environ.get("JAX_COORDINATOR_ADDRESS", "the coordinator")
        print(f"process {place} of {number}: waiting for the others at {where} …", file=sys.stderr, flush=True)
    try:
        jax.distributed.initialize(num_processes=number, process_id=place)
    except ValueError as error:
        raise ValueError(
            f"--distributed: no cluster was found ({str(error).rstrip('.')}); set JAX_COORDINATOR_ADDRESS, {NUMBER} "
            f"and {PLACE}."
        ) from None


def is_first_process() -> bool:
    """Whether this is the process that writes and prints: the only one, or the first of several."""
    return jax.process_index() == 0


def is_one_of_several() -> bool:
    """Whether other processes train beside this one. Checkpoints are then read and written by all of them together."""
    return jax.process_count() > 1


def first_says(value: Value) -> Value:
    """A text or a number as the first process has it, so that all processes decide alike; each of them must ask."""
    if jax.process_count() == 1:
        return value
    text = json.dumps(value).encode()
    if len(text) > LONGEST:
        raise ValueError(f"the first process has {len(text)} bytes to say, but at most {LONGEST} can be.")
    said = multihost_utils.broadcast_one_to_all(np.frombuffer(text.ljust(LONGEST), np.uint8))
    return json.loads(np.asarray(said, np.uint8).tobytes())


def any_says(value: bool) -> bool:
    """Whether it is true in one process at least; each of them must ask."""
    return value if jax.process_count() == 1 else bool(np.any(multihost_utils.process_allgather(np.array(value))))
