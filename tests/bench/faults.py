"""Faults, injected into real runs of `nde fit`: what survives them, and what is lost.

    python tests/bench/faults.py [--times 20] [kill terminate half_written flipped missing full_disk unsolvable …]

A run of a latent SDE, whose every step draws, is killed, stopped, or finds its checkpoints harmed, and is resumed until
it has ended; then all arrays of its last checkpoint and of its best are compared, bit for bit, with those of a run that
was left in peace, and its lines of metrics, but for the seconds, too. A run in which series can not be solved, or
losses are not finite, must end by itself with the others fitted. A full disk needs the right to mount one (root).
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
from orbax.checkpoint import CheckpointManager
from orbax.checkpoint.args import StandardRestore
from timing import load, processor

RESULT = Path(__file__).parent / "results" / "faults.json"
NDE = [sys.executable, "-c", "from nde.cli import main; main()"]
CONFIG = """
task = "forecast"
[data]
path = "TABLE"
id = "id"
time = "t"
[[model]]
name = "latent_sde"
state_size = 2
width = 8
[objective]
samples = 2
[train]
steps = 150
batch_size = 8
validate_every = 10
ema = 0.99
[evaluate]
stack = false
samples = 20
"""


class Case:
    """A run to be harmed, beside one that was left in peace."""

    def __init__(self, folder: Path):
        self.folder, rng = folder, np.random.default_rng(0)
        rows = [(f"s{i}", t, float(np.sin(t + i) + 0.1 * rng.standard_normal())) for i in range(30) for t in range(8)]
        pl.DataFrame(rows, schema=["id", "t", "x"], orient="row").write_csv(folder / "table.csv")
        (folder / "c.toml").write_text(CONFIG.replace("TABLE", str(folder / "table.csv")))
        self.env = {**os.environ, "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(folder / "cache")}
        self.begin(folder / "first")  # compiles
        start = time.perf_counter()
        process = self.begin(folder / "peace")
        self.seconds = time.perf_counter() - start
        assert process.returncode == 0, process.stderr
        self.expected = self.found(folder / "peace")

    def command(self, out: Path) -> list[str]:
        """What begins a run, or goes on with one that has begun."""
        if (out / "config.toml").exists():
            return [*NDE, "fit", "--resume", str(out)]
        if out.exists():  # it was killed before there was anything to go on with
            subprocess.run(["rm", "-r", str(out)], check=True)
        return [*NDE, "fit", str(self.folder / "c.toml"), "--out", str(out)]

    def begin(self, out: Path) -> subprocess.CompletedProcess:
        """Begin, or go on, to the end."""
        return subprocess.run(self.command(out), env=self.env, text=True, capture_output=True, check=False)

    def until(self, out: Path, seconds: float, what: signal.Signals) -> bool:
        """Begin or go on, and send a signal after a while; whether it met a living process."""
        process = subprocess.Popen(self.command(out), env=self.env, stdout=-3, stderr=-3)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(what)
            process.wait()
            return True
        return False

    @staticmethod
    def found(out: Path) -> tuple[dict[str, bytes], list[dict]]:
        """All arrays of both checkpoints, and the lines of metrics without times."""
        arrays = {}
        for which in ("last", "best"):
            manager = CheckpointManager((out / "checkpoints" / "0" / which).absolute())
            saved = manager.restore(manager.latest_step(), args=StandardRestore())
            arrays |= {f"{which}{name}": np.asarray(x).tobytes() for name, x in saved.items()}
            manager.close()
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        return arrays, [{k: v for k, v in line.items() if not k.startswith("seconds")} for line in lines]

    def is_whole(self, out: Path) -> bool:
        """Whether the run has ended as the one that was left in peace."""
        return self.found(out) == self.expected

    def pair(self, out: Path, seconds: float | None = None, which: tuple[int, ...] = ()) -> list[int]:
        """Begin or go on in two processes that share each batch, of which some are killed after a while."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = f"127.0.0.1:{server.getsockname()[1]}"
        command = [*self.command(out), "train.devices=all", "--distributed"]
        env = {**self.env, "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
        both = [subprocess.Popen(command, env=env | {"JAX_PROCESS_ID": str(i)}, stdout=-3, stderr=-3) for i in range(2)]
        if seconds is not None:
            time.sleep(seconds)
            for i in which:
                both[i].kill()
        return [process.wait() for process in both]


def interrupted(case: Case, times: int, what: signal.Signals) -> dict:
    """Signals at random moments, of one run after another, until there were enough."""
    rng, injected, runs, whole = random.Random(0), 0, 0, 0
    while injected < times:
        out = case.folder / f"{what.name}-{runs}"
        runs += 1
        for _ in range(5):
            injected += case.until(out, rng.uniform(0.5, case.seconds), what)
        assert case.begin(out).returncode == 0
        whole += case.is_whole(out)
    return {"injected": injected, "runs": runs, "survived": injected if whole == runs else 0, "identical": whole}


def killed_together(case: Case, times: int) -> dict:
    """Two processes that share each batch, of which one or both are killed, and begun anew together."""
    rng, injected, runs, whole, peace = random.Random(5), 0, 0, 0, case.folder / "pair-peace"
    started = time.perf_counter()
    assert case.pair(peace) == [0, 0]
    seconds, expected = time.perf_counter() - started, case.found(peace)
    while injected < times:
        out = case.folder / f"pair-{runs}"
        runs += 1
        for which in ((0, 1), (rng.randrange(2),)):
            # One that is left ends by itself, when JAX has missed the other's heartbeats.
            injected += case.pair(out, rng.uniform(0.3, 0.9) * seconds, which) != [0, 0]
        assert case.pair(out) == [0, 0]
        whole += case.found(out) == expected
    return {"injected": injected, "runs": runs, "survived": injected if whole == runs else 0, "identical": whole}


def harmed(case: Case, times: int, harm) -> dict:
    """A run that is killed, finds a file of its last checkpoint harmed, and goes on."""
    rng, injected, whole, told = random.Random(1), 0, 0, 0
    while injected < times:
        out = case.folder / f"{harm.__name__}-{injected}"
        last = out / "checkpoints" / "0" / "last"
        while not (list(last.glob("*/")) and list((last.parent / "best").glob("*/"))):
            case.until(out, rng.uniform(0.5, 0.9) * case.seconds, signal.SIGKILL)
        newest = max(int(p.name) for p in last.iterdir() if p.name.isdigit())
        files = [p for p in (last / str(newest)).rglob("*") if p.is_file() and p.stat().st_size]
        harm(rng, rng.choice(files))
        injected += 1
        process = case.begin(out)
        told += "can not be read" in process.stdout
        assert process.returncode == 0, process.stderr
        whole += case.is_whole(out)
    return {"injected": injected, "survived": whole, "identical": whole, "told": told}


def half_written(rng: random.Random, path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flipped(rng: random.Random, path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def missing(rng: random.Random, path: Path) -> None:
    path.unlink()


def full_disk(case: Case, times: int) -> dict:
    """A disk that fills at a random moment, and has room again."""
    rng, told, whole = random.Random(2), 0, 0
    for i in range(times):
        place = case.folder / f"disk-{i}"
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)], check=True)
        out = place / "run"
        process = subprocess.Popen(case.command(out), env=case.env, text=True, stdout=-3, stderr=-1)
        while not (out / "checkpoints" / "0" / "last").exists() and process.poll() is None:
            time.sleep(0.02)
        time.sleep(rng.uniform(0.0, 0.5))
        with (place / "filler").open("wb") as filler:
            try:
                while True:
                    filler.write(bytes(2**16))
                    filler.flush()
            except OSError:
                pass
        _, said = process.communicate()
        told += process.returncode != 0 and said.count("\n") == 1 and ("space" in said.lower() or "written" in said)
        (place / "filler").unlink()
        process = case.begin(out)
        assert process.returncode == 0, process.stderr
        whole += case.is_whole(out)
        subprocess.run(["umount", str(place)], check=True)
    return {"injected": times, "survived": whole, "identical": whole, "told": told}


def unsolvable(case: Case, times: int) -> dict:
    """Series that blow up among others: of y' = y² those can not be solved that reach infinity within the data."""
    rng, survived, named, broken = random.Random(3), 0, 0, 0
    (case.folder / "field.py").write_text(
        "STATES, PARAMETERS = ('x',), {'rate': 1.0}\n\n\ndef field(t, y, p):\n    return [p.rate * y[0] ** 2]\n"
    )
    for i in range(times):
        starts = [rng.uniform(0.1, 0.4) for _ in range(6)] + [rng.uniform(0.8, 3.0) for _ in range(rng.randint(1, 3))]
        rng.shuffle(starts)
        bad = {f"s{j}" for j, y in enumerate(starts) if y > 0.5}
        broken += len(bad)
        times_of = np.arange(0.0, 2.0, 0.25)
        rows = [(f"s{j}", t, min(y / max(1 - y * t, 1e-3), 9.0)) for j, y in enumerate(starts) for t in times_of]
        table, out = case.folder / f"blow-{i}.csv", case.folder / f"blow-{i}"
        pl.DataFrame(rows, schema=["id", "t", "x"], orient="row").write_csv(table)
        (case.folder / "blow.toml").write_text(
            f'task = "dynamics"\n[data]\npath = "{table}"\nid = "id"\ntime = "t"\ntest_after = 1.5\n'
            f'[observe]\nstart = "first_row"\n[[model]]\nname = "known"\nknown = "{case.folder}/field.py:field"\n'
            "[solver]\nmax_steps = 60\n[train]\nsteps = 12\nvalidate_every = 4\nlearning_rate = 1e-4\n"
            "[evaluate]\nsamples = 20\n"
        )
        command = [*NDE, "fit", str(case.folder / "blow.toml"), "--out", str(out)]
        process = subprocess.run(command, env=case.env, text=True, capture_output=True, check=False)
        survived += process.returncode == 0 and (out / "results.csv").exists()
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        named += {name for line in lines for name in line.get("left_out", [])} == bad
    return {"injected": broken, "runs": times, "survived": broken if survived == times else 0, "named": named}


def not_finite(case: Case, times: int) -> dict:
    """Losses that become NaN at random steps, whatever the batch, in a training by the library."""
    import jax
    import jax.numpy as jnp
    import optax

    from nde.train import BatchLoss, fit, gradient_update, Schedule

    rng, injected, survived = random.Random(4), 0, 0
    data = jnp.asarray(np.random.default_rng(0).standard_normal((16, 3)))
    for run in range(5):
        bad = jnp.array(sorted(rng.sample(range(4, 200), times // 5)))

        def loss(model, batch, step, key, bad=bad):
            each = (batch @ model - 1.0) ** 2
            each = jnp.where(jnp.any(bad == step), jnp.nan, each)
            return BatchLoss(jnp.mean(each), {}, each)

        update = gradient_update(loss, optax.adam(0.05))
        batches = [np.random.default_rng([run, i]).choice(16, 8, replace=False) for i in range(200)]
        outcome = fit(
            update, update.init(jnp.zeros(3)), data, batches, lambda model: 0.0, Schedule(200, 20),
            key=jax.random.key(0), names=range(16), failed="leave_out",
        )  # fmt: skip
        clean = np.linalg.lstsq(np.asarray(data), np.ones(16), rcond=None)[0]
        close = np.allclose(np.asarray(outcome.state.model), clean, atol=0.2)
        survived += len(bad) * (outcome.reason == "finished" and close)
        injected += len(bad)
    return {"injected": injected, "runs": 5, "survived": survived}


def main() -> None:
    """Inject the faults that are asked for, and store what became of them."""
    faults = {
        "kill": lambda case, n: interrupted(case, n, signal.SIGKILL),
        "kill_together": killed_together,
        "terminate": lambda case, n: interrupted(case, n, signal.SIGTERM),
        "half_written": lambda case, n: harmed(case, n, half_written),
        "flipped": lambda case, n: harmed(case, n, flipped),
        "missing": lambda case, n: harmed(case, n, missing),
        "full_disk": full_disk,
        "unsolvable": unsolvable,
        "not_finite": not_finite,
    }
    parser = argparse.ArgumentParser()
    parser.add_argument("faults", nargs="*", choices=[*faults, []], default=list(faults))
    parser.add_argument("--times", type=int, default=20)
    asked = parser.parse_args()
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {"faults": {}}
    with tempfile.TemporaryDirectory() as folder:
        case = Case(Path(folder))
        print(f"in peace: {case.seconds:.1f} s", flush=True)
        for name in asked.faults:
            started = time.perf_counter()
            found = faults[name](case, asked.times)
            found["seconds"] = round(time.perf_counter() - started)
            print(name, found, flush=True)
            known["faults"][name] = found
            known |= {"machine": processor(), "load": load(), "run_seconds": round(case.seconds, 1)}
            RESULT.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
