"""Writes tests/bench/README.md: every table of it from the JSON files in tests/bench/results.

    python tests/bench/report.py

A section is a function below that returns text and tables, listed in `SECTIONS`. A new benchmark stores its JSON,
gets a function here, and its page is made again; README quotes rows of this page, and a test holds both to the stored
numbers.
"""

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def stored(name: str) -> Any:
    """What a benchmark has stored: one JSON value, or the list of a file that holds one a line."""
    text = (HERE / "results" / f"{name}.json").read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines()]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def times(ratio: float) -> str:
    """A ratio with two to three digits: `4.3 ×`."""
    return f"{ratio:.0f} ×" if ratio >= 30 else f"{ratio:.1f} ×" if ratio >= 1 else f"{ratio:.2f} ×"


def engine() -> str:
    """Gradients and forward solves of ODEs."""
    names = {
        "A": "A: MLP 64, batch 128",
        "A1": "A, one trajectory",
        "A64k": "A, `max_steps=65536`",
        "A256": "A256: MLP 256, batch 128",
        "A256-1024": "A256, batch 1024",
        "LV": "Lotka–Volterra, one trajectory",
        "LV1000": "Lotka–Volterra, batch 1000",
        "few": "few steps, 50 save times, batch 128",
        "few1": "few steps, 50 save times, one trajectory",
        "smooth": "smooth, batch 128",
        "wide": "a state of 64, batch 256",
    }
    rows = stored("engine")["rows"]
    lines = [
        [
            names[name],
            f"{row['steps']['accepted_steps']:.0f} of {row['steps']['steps']:.0f}",
            times(row["gradient_ratio"]),
            times(row["forward_ratio"]),
            f"{row['gradient_over_forward']:.1f}",
            f"{row['first_call_ratio']:.2f}",
            f"{row['memory_ratio']:.2f} ({row['nde']['temporary_MiB']:.2f} MiB)",
        ]
        for name, row in rows.items()
        if name in names
    ]
    head = [
        "problem", "steps accepted of tried", "gradient", "forward", "our gradient over our forward", "first call",
        "temporary memory",
    ]  # fmt: skip
    torch, uneven, latent = stored("engine_torch"), stored("uneven"), stored("latent_step")
    tree_ms = latent["diffrax, its tree"]["gradient_ms"]
    return f"""## ODEs: the engine beside diffrax

`python tests/bench/engine.py`. Tsit5 at 1e-6, both at their defaults. Times are diffrax's over ours; first call
(trace and compile) and memory are ours over diffrax's. A ratio below one in the first two columns is a loss.

{table(head, lines)}

The lead is in long solves of networks; where a solve takes few steps, or its steps are tiny, little is gained. Expect
some 10 % on every figure from run to run, and more on those of one trajectory.

torchdiffeq's `odeint` takes {times(torch["ratio"]["odeint"])} the time of our gradient of problem A
(`tests/bench/engine_torch.py`).

A batch of 1024 Van der Pol oscillators of {uneven["steps_min_mean_max"][0]} to {uneven["steps_min_mean_max"][2]}
steps: `nde.map_in_buckets` takes {1 / uneven["vmap_over_buckets"]:.2f} of the time of one `vmap`, and
{uneven["buckets_over_by_hand"]:.2f} of that of the same work sorted by hand (`tests/bench/uneven.py`).

A training step of the latent SDE on PBC, 71 fixed steps, takes {latent["nde"]["gradient_ms"]:.0f} ms; diffrax's loop
takes {latent["diffrax"]["gradient_ms"]:.0f} on the same `BrownianGrid` and {tree_ms:.0f} on its own
tree (`tests/bench/latent_step.py`)."""


def sde() -> str:
    """Gradients and forward solves of SDEs, and Brownian motion alone."""
    names = {
        "heun": "Stratonovich Heun, 200 steps, `BrownianGrid`",
        "reversible": "reversible Heun, 200 steps, `ReversibleAdjoint`",
        "euler": "Euler–Maruyama, 1000 steps, `BrownianGrid`",
        "euler-plain": "the same, drift and diffusion sin(w y)",
        "euler-tree": "Euler–Maruyama, 1000 steps, `VirtualBrownianTree`",
        "inside": "adaptive Heun, 1e-3, `VirtualBrownianTree`",
        "inside-plain": "the same, drift and diffusion sin(w y)",
        "adaptive": "adaptive SPaRK, 1e-3, `VirtualBrownianTree`",
    }
    rows = stored("sde")["rows"]
    lines = []
    for name, label in names.items():
        row = rows[name]
        torch = ", ".join(
            times(value) + peer.removeprefix("torchsde").replace(", ", " its ")
            for peer, value in row["gradient_ratio"].items()
            if peer.startswith("torchsde")
        )
        memory = row["gradient_memory_MiB"]
        ratios = [times(row["forward_ratio"]["diffrax"]), times(row["gradient_ratio"]["diffrax"]), torch]
        lines.append([label, *ratios, f"{memory['nde']:.1f}, {memory['diffrax']:.1f}"])
    head = ["problem", "forward", "gradient", "gradient, torchsde", "gradient's memory, ours and diffrax's, MiB"]
    alone = stored("brownian")["results"]
    kinds = {"BrownianIncrement": "W", "SpaceTimeLevyArea": "W, H", "SpaceTimeTimeLevyArea": "W, H, K"}
    tree = [
        [label, *(times(alone[f"tree, {kind}, {order}"]["speedup"]) for order in ("in order", "shuffled"))]
        for kind, label in kinds.items()
    ]
    slow = [alone[f"grid, Euler-Maruyama, {way}"]["slowdown"] for way in ("forward", "gradient")]
    return f"""## SDEs and Brownian motion

`python tests/bench/sde.py`; batch 256, a state of 4 with diagonal noise, drift and diffusion each a network unless
the row says otherwise; diffrax with its own tree. Their time over ours.

{table(head, lines)}

`VirtualBrownianTree` alone, 256 keys and 200 queries, diffrax's time over ours (`python tests/bench/brownian.py`):

{table(["increments and Lévy areas", "queries in order", "shuffled"], tree)}

Euler–Maruyama of 1000 steps on the grid takes {slow[0]:.2f} (forward) and {slow[1]:.2f} (gradient) of the time of a
hand-written scan over increments drawn before it."""


def orders() -> str:
    """Strong orders of convergence."""
    rows = stored("orders")["rows"]
    lines = [
        [equation, solver, f"{found['order']:.2f}", "" if found["claimed"] is None else f"{found['claimed']:g}"]
        for equation, solvers in rows.items()
        for solver, found in solvers.items()
        if isinstance(found, dict) and "claimed" in found
    ]
    cir = rows["CIR"]
    return f"""## Strong orders

`python tests/bench/orders.py`: the slope of the strong error over the step, 1000 to 4000 paths.

{table(["equation", "solver", "measured", "claimed"], lines)}

Cox–Ingersoll–Ross as in Jelinčič, Foster and Kidger (2024), a splitting along its flows: order
{cir["constant"]["order"]:.2f} with constant steps, {cir["adaptive"]["order"]:.2f} with steps that shorten near zero;
their notebook has 0.78 and 1.82."""


def adjoints() -> str:
    """Adjoints whose memory does not grow with the steps."""
    rows, continuous = stored("reversible")["rows"], stored("continuous")
    cells = {
        "sde": "reversible Heun, SDE, `BrownianGrid`",
        "sde-tree": "the same, `VirtualBrownianTree`",
        "sde-heun": "`Reversible(Heun)`, SDE, `BrownianGrid`",
    }
    lines = [
        [
            label,
            f"{rows[name]['checkpoint']['ours_over_it']:.2f}",
            f"{rows[name]['reversible']['temporary_MiB']:.2f}, {rows[name]['checkpoint']['temporary_MiB']:.2f}",
        ]
        for name, label in cells.items()
        if name in rows
    ]
    speed = continuous["speed"]
    peers = [
        [name, f"{row['gradient_ms']:.0f}", times(row["over_ours"]), f"{row['apart_from_discrete']:.1e}"]
        for name, row in speed.items()
    ]
    ratio = max(row["ratio"] for name, row in rows["memory"].items() if isinstance(row, dict))
    return f"""## Adjoints with the memory of one state

`python tests/bench/reversible.py`, `python tests/bench/continuous.py`. `ReversibleAdjoint` at 4096 steps takes
{ratio:.3f} of its memory at 256. Its time over `CheckpointAdjoint`'s with the same solver, and both memories:

{table(["solve", "time", "MiB, reversible and checkpoint"], lines)}

Gradient of problem A, batch 128, against `ContinuousAdjoint`:

{table(["adjoint", "ms", "over ContinuousAdjoint", "distance from the discrete gradient"], peers)}

![Distance of the continuous adjoint's gradient from the discrete and the exact one](results/continuous.png)"""


def regularisers() -> str:
    """What regularising the solver buys."""
    parts = []
    titles = {
        "digits": "Digits: a classifier of 8 × 8 images",
        "patients": "Patients: a latent ODE that forecasts the second half of a follow-up",
        "spiral": "Spiral: a neural SDE fitted to moments",
    }
    for name, title in titles.items():
        found = stored(f"regularise_{name}")
        measure, plain, lines = found["measure"], None, []
        for each, weight in found["chosen"].items():
            trained = [row for row in found["rows"] if (row["regulariser"], row["weight"]) == (each, weight)]
            own = [row["test"] for row in trained if "failed" not in row]
            failed = len(trained) - len(own)
            plain = plain or (own, found["times"][each])
            spread = [
                f"{statistics.median(x):.3g} ({min(x):.3g} to {max(x):.3g})"
                for x in ([row[key] for row in own] for key in ("loss", measure))
            ]
            share = statistics.median(row["evaluations"] for row in own)
            share /= statistics.median(row["evaluations"] for row in plain[0])
            faster = [times(plain[1][key] / found["times"][each][key]) for key in ("prediction_ms", "training_s")]
            label = each + (f" ({failed} of {len(trained)} failed)" if failed else "")
            lines.append([label, f"{weight:g}", *spread, f"{share:.2f}", *faster])
        head = ["regulariser", "weight", "held-out loss", measure, "evaluations, of plain", "prediction", "training"]
        parts.append(f"{title}.\n\n{table(head, lines)}")
    body = "\n\n".join(parts)
    return f"""## Regularising the solver

`python tests/bench/regularise.py study digits`, `patients`, `spiral`, then `time`: each weight is chosen on
validation data, three seeds are judged on held-out data; medians and ranges. Prediction and training are the plain
model's time over this one's, of the first seed.

{body}

The solver's error, over all steps or at one, is what pays. The SDE is the exception: its steps follow the noise, and
where evaluations halve the loss is ten times as large; one seed of three gets stuck whatever the regulariser.

![Held-out loss against evaluations, all weights and seeds](results/regularise.png)"""


def forecasts() -> str:
    """The latent SDE on PBC beside its baselines."""
    found, parts = stored("pbc_folds"), []
    for task, result in found["tasks"].items():
        lines = []
        for row in result["methods"]:
            difference = ["", ""]
            if row["nll_difference"]:  # zero of the method itself
                difference = [
                    f"{row[f'{kind}_difference']:+.3f} ± {row[f'{kind}_error']:.3f}".replace("-", "−")
                    for kind in ("nll", "crps")
                ]
            lines.append([row["method"], f"{row['nll']:.3f}", f"{row['crps']:.3f}", *difference])
        head = ["method", "NLL", "CRPS", "latent SDE − method, NLL", "CRPS"]
        parts.append(f"{task}: {result['patients']} patients, {result['values']} values.\n\n{table(head, lines)}")
    kl = found["path_kl_nats"]
    body = "\n\n".join(parts)
    return f"""## Forecasts: the latent SDE on primary biliary cirrhosis

`python tests/bench/pbc_folds.py`: five folds by patient, each patient scored once; scores per value in standardised
units, lower is better; all methods are fitted on the same patients and see the same context; differences are paired,
± their standard error over patients.

{body}

The path KL given the context is {kl["mean"]:.1f} nats a patient in the mean; for {100 * kl["share_below_half"]:.0f} %
of the patients it lies below 0.5. The likelihood is Student's t and the baselines are Gaussian: part of the lead in
NLL is tails, and the lead in CRPS is the smaller one. The settings were chosen among some fourteen on validation
parts of another division of the same patients: expect a slight optimism."""


def shooting() -> str:
    """Multiple shooting and a growing horizon."""
    rows = [
        [name, f"{row['rmse']:.3f}", f"{100 * row['amplitude_last_period']:.0f} %", f"{row['frequency']:.3f}"]
        for name, row in stored("shooting")["median"].items()
    ]
    return f"""## Long oscillations

`python tests/bench/shooting.py`: a pendulum of unknown frequency over twelve periods, fitted from 40 % below; medians
of three seeds.

{table(["fit", "RMSE", "amplitude in the last period, of the truth", "frequency, of the truth"], rows)}"""


def fits() -> str:
    """The ODE fits that ship as configs."""
    held = {
        "hybrid_pendulum": "8 to 24 s, radians; noise 0.05",
        "hybrid_lynx_hare": "1916 to 1920, logarithms",
        "neural_ode_spiral": "eight trajectories; noise 0.03",
    }
    lines = [
        [f"`{config}.toml`", what, row["method"], f"{row['RMSE']:.3f}", f"{row['NLL']:.2f}".replace("-", "−")]
        + [f"{row[share]:.2f}" for share in ("in 50 %", "in 90 %")]
        + [f"{row['RMSE, fitted']:.3f}"]
        for config, what in held.items()
        for row in stored(f"fit_{config}")["methods"]
    ]
    head = ["config", "held out", "method", "RMSE", "NLL", "in 50 %", "in 90 %", "RMSE, fitted"]
    return f"""## ODE fits

`nde fit configs/hybrid_pendulum.toml` and so on, seed 0, one run each; the stored file is the run's `results.json`.
RMSE and NLL per value on what was held out; shares of held-out values inside the central intervals.

{table(head, lines)}"""


SECTIONS: list[Callable[[], str]] = [engine, sde, orders, adjoints, regularisers, forecasts, fits, shooting]

INTRODUCTION = """# What was measured

Two CPU cores, jax 0.10.2, diffrax 0.7.2, float32 unless said otherwise; medians of alternating calls in one process,
after warm-up. `python tests/bench/report.py` makes this page from the files in `results/`; each section names the
script that made them. No accelerator has been measured yet."""


def page() -> str:
    """The page."""
    return "\n\n".join([INTRODUCTION, *(section() for section in SECTIONS)]) + "\n"


if __name__ == "__main__":
    (HERE / "README.md").write_text(page(), encoding="utf-8")
