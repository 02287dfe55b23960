"""Processes beside this one, that end when they are asked to and when this one does."""

import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jax

from nde.tasks import RunFailed
from nde.train import CheckpointNotWritten, FailedExamples


def in_processes(module: str, arguments: Sequence[Sequence[str]]) -> list[int]:
    """Call `main` of a module with each of some arguments, in a process for each; the codes of those that failed.

    Each ends when its standard input does: when this process asks it to, and also when this process is killed. Ctrl-C
    reaches this process alone, which then asks each once. Of several GPUs each process is given its share.

    **Raises:** `KeyboardInterrupt` after all have come to a stop.
    """
    start = f"import sys; from {module} import main; main(*sys.argv[1:])"
    env = {**os.environ, "JAX_ENABLE_X64": str(int(jax.config.jax_enable_x64))}  # pyright: ignore[reportAttributeAccessIssue]
    env.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the first would take the accelerator's memory
    count = len(arguments)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", start, *given],
            stdin=subprocess.PIPE,
            start_new_session=True,
            env=env | _devices(place, count),
        )
        for place, given in enumerate(arguments)
    ]
    try:
        codes = [each.wait() for each in started]
    except KeyboardInterrupt:
        for each in started:
            assert each.stdin is not None
            each.stdin.close()
        try:
            for each in started:
                each.wait()
        except KeyboardInterrupt:
            for each in started:
                each.kill()
        raise
    finally:
        for each in started:
            if each.stdin is not None:
                each.stdin.close()
    return [code for code in codes if code]


def _devices(place: int, count: int) -> dict[str, str]:
    """Which GPUs the `place`-th of `count` processes sees: all of them where there are fewer."""
    if jax.default_backend() != "gpu":
        return {}
    every = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = every.split(",") if every else [str(i) for i in range(jax.local_device_count())]
    return {"CUDA_VISIBLE_DEVICES": ",".join(names[place % len(names) :: count])}


@contextmanager
def as_a_process() -> Iterator[None]:
    """Do what is within as one of `in_processes`, and end with code 0, 130 after a signal, or 1 after an error."""
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    code = 0
    try:
        yield
    except KeyboardInterrupt:
        code = 130
    except (RunFailed, CheckpointNotWritten, FailedExamples, ValueError, OSError) as error:
        print(f"nde: {error}", file=sys.stderr)
        code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the thread still reads


def _stop_with_parent() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGINT)
