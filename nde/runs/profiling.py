"""Where the time and the memory of a training step go: `nde profile`."""

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from nde import config as configs
from nde.report import fitted_table
from nde.runs.arrays import training_data
from nde.runs.folder import prepare
from nde.tasks import member_key, new_model, TASKS
from nde.train import checks_as_nan, LossFunction, TrainState

ROUNDS, TRACED, SHOWN_KERNELS = 20, 5, 8
CONTAINERS = ("while", "call", "conditional")  # whose time is that of the kernels within
PARTS = ("data", "loss", "gradient", "update", "validation")


@dataclass(frozen=True)
class ModelProfile:
    """What a step of one model costs.

    - `model`: what its `[[model]]` is called.
    - `seconds`: of a step, by part, medians: `data`, taking the batch on the host; `loss`, the forward solves;
      `gradient`, the way back; `update`, the optimiser, guards and launch; `validation`, its share of each step. Where
      devices or turns divide a batch, `loss` and `gradient` are part of `update`.
    - `compile_seconds`: of the step's program, tracing included.
    - `temporary_bytes`: what the gradient takes beside parameters and batch; `None` where batches are divided.
    - `counts`: of a step, all solves of the batch together: see `nde.train.StepReport`.
    - `kernels`: the most expensive kernels of the trace, with their share of all kernels' time.
    """

    model: str
    seconds: dict[str, float]
    compile_seconds: float
    temporary_bytes: int | None
    counts: dict[str, int]
    kernels: dict[str, float]

    @property
    def step_seconds(self) -> float:
        """All of a step."""
        return sum(self.seconds.values())


@dataclass(frozen=True)
class Profile:
    """What `nde.runs.profile` found; `folder` holds `profile.json` and the trace of each model."""

    folder: Path
    models: Sequence[ModelProfile]

    def table(self) -> Table:
        """Milliseconds of a step and their shares, two rows a model, so that many models fit beside few parts."""
        parts = [part for part in PARTS if any(part in model.seconds for model in self.models)]
        columns: dict[str, list[str]] = {name: [] for name in ("model", *parts, "step", "compile")}
        for model in self.models:
            whole = model.step_seconds
            rows = {"model": (f"{model.model} (ms)", "share"), "step": (f"{1e3 * whole:.3f}", "100%")}
            rows["compile"] = (f"{1e3 * model.compile_seconds:.0f}", "")
            for part in parts:
                took = model.seconds.get(part)
                rows[part] = ("–", "–") if took is None else (f"{1e3 * took:.3f}", f"{took / whole:.0%}")
            for name, cells in columns.items():
                cells += rows[name]
        return fitted_table(columns, text=["model"], title="a training step", caption="medians; compiling comes once")

    def lines(self) -> list[str]:
        """What there is to say below the table."""
        found = []
        for model in self.models:
            counts = model.counts
            if counts.get("solves"):
                solves, tried = counts["solves"], counts["accepted"] + counts["rejected"]
                rejected = f"{counts['rejected'] / tried:.0%} of them rejected" if tried else "none of them rejected"
                fields = f", {counts['evaluations'] / solves:.0f} evaluations" if "evaluations" in counts else ""
                taken = f"{tried / solves:.1f} steps{fields}; {rejected}"
                found.append(f"{model.model}: {solves} solves a step, in the mean of {taken}")
            if model.temporary_bytes is not None:
                found.append(f"{model.model}: {model.temporary_bytes / 2**20:.1f} MiB of memory for the gradient")
            if model.kernels:
                named = ", ".join(f"{name} {share:.0%}" for name, share in model.kernels.items())
                found.append(f"{model.model}: kernels {named}")
        return [
            *found,
            f"traces: {self.folder} (for TensorBoard's profile plugin; *.trace.json.gz for Perfetto)",
        ]

    def write(self) -> None:
        """Write `profile.json`."""
        (self.folder / "profile.json").write_text(json.dumps([asdict(model) for model in self.models], indent=1) + "\n")


def profile(config: configs.RunConfig, folder: Path, *, rounds: int = ROUNDS) -> Profile:
    """Measure what a training step of each `[[model]]` of a config costs; nothing is trained for good.

    **Arguments:** `config`: validated; `folder`: a new one, for the trace and `profile.json`; `rounds`: how often each
    part is timed, the parts in turn.

    **Raises:** what `nde.fit` raises for a config or a table.
    """
    resolved, problem = prepare(config)
    folder.mkdir(parents=True)
    members = resolved.members()[:: resolved.train.members]
    found = Profile(folder, [_measure(resolved, problem, member, folder, rounds) for member in members])
    found.write()
    return found


def _measure(config: Any, problem: Any, member: configs.Member, folder: Path, rounds: int) -> ModelProfile:
    task = TASKS[config.task]
    examples, update = task.examples(config, problem, member), task.update(config, problem)
    data, batches = training_data(config.train, examples, config.seed + member.index)
    state = update.init(new_model(config, member, task.facts(config)))
    key = member_key(config, member.index, "training")
    started = time.perf_counter()
    update.compiled(state, data, batches[0], key)
    compiled = time.perf_counter() - started

    parts = {
        "data": _timed(lambda: jax.tree.map(lambda x: x[np.asarray(batches[0])], data)),
        "step": _timed(lambda: update.compiled(state, data, batches[0], key)[1]),
    }
    temporary = None
    if update.sharing is None:
        rows = jax.tree.map(lambda x: jnp.asarray(x[np.asarray(batches[0])]), data)
        whole, temporary = _whole(task.loss(config, problem), state, rows, key)
        parts |= whole
    for run in parts.values():
        run()  # compiled
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(rounds):
        for name, run in parts.items():
            times[name].append(run())
    spent = {name: median(each) for name, each in times.items()}
    seconds = _split(spent)
    validate = task.validation(config, problem)
    validate(state.evaluated_model)
    started = time.perf_counter()
    validate(state.evaluated_model)
    seconds["validation"] = (time.perf_counter() - started) / config.train.validate_every

    trace = folder / f"trace-{member.label}".replace(" ", "-")
    report = update.compiled(state, data, batches[0], key)[1]
    with jax.profiler.trace(str(trace)):
        for step in range(TRACED):
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                _, report = update.compiled(state, data, batches[0], key)
                jax.block_until_ready(report)
    counts = {name: round(float(value)) for name, value in report.counts.items() if np.isfinite(value)}
    return ModelProfile(member.label, seconds, compiled, temporary, counts, kernels_of(trace))


def _timed(make: Callable[[], Any]) -> Callable[[], float]:
    def run() -> float:
        started = time.perf_counter()
        jax.block_until_ready(make())
        return time.perf_counter() - started

    return run


def _whole(
    loss: LossFunction, state: TrainState, rows: Any, key: Any
) -> tuple[dict[str, Callable[[], float]], int | None]:
    """The loss of a batch and its gradient alone, to be timed, and the temporary bytes of the gradient's program."""
    arrays, static = eqx.partition(state.model, eqx.is_inexact_array)

    def value(arrays: Any, rows: Any) -> Any:
        return loss(eqx.combine(arrays, static), rows, state.step, key).loss

    with checks_as_nan():
        programs = {
            name: jax.jit(function).lower(arrays, rows).compile()
            for name, function in {"loss": value, "gradient": jax.value_and_grad(value)}.items()
        }
    stats = programs["gradient"].memory_analysis()
    found = {name: _timed(partial(program, arrays, rows)) for name, program in programs.items()}
    return found, None if stats is None else stats.temp_size_in_bytes


def _split(spent: dict[str, float]) -> dict[str, float]:
    """What each part adds to the ones within it."""
    if "loss" not in spent:
        return {"data": spent["data"], "update": max(spent["step"] - spent["data"], 0.0)}
    back = max(spent["gradient"] - spent["loss"], 0.0)
    rest = max(spent["step"] - spent["data"] - spent["loss"] - back, 0.0)
    return {"data": spent["data"], "loss": spent["loss"], "gradient": back, "update": rest}


def kernels_of(trace: Path) -> dict[str, float]:
    """The most expensive kernels of a trace, with the share of each kind of the time of all of them."""
    spent: Counter[str] = Counter()
    for path in trace.rglob("*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            for line in plane.lines:
                for event in line.events:
                    kind = event.name.split(".")[0]
                    if kind not in CONTAINERS and any(name == "hlo_op" for name, _ in event.stats):
                        spent[kind] += event.duration_ns
    total = sum(spent.values())
    return {name: took / total for name, took in spent.most_common(SHOWN_KERNELS)} if total else {}
