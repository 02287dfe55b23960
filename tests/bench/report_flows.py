"""The sections on flows: couplings, reflow, a learned end of time."""

import statistics

from report_format import stored, table


def flow_matching() -> str:
    """Eight Gaussians to two moons, beside torchcfm."""
    found = stored("flow_matching")
    rows = found["rows"]
    lines = [
        [name, f"{row['seconds']:.0f}", f"{row['W2']:.2f}", f"{row['W2_floor']:.2f}"] for name, row in rows.items()
    ]
    times = {
        coupling: rows[f"torchcfm, {coupling}"]["seconds"] / rows[f"nde, {coupling}"]["seconds"]
        for coupling in ("independent", "transport")
    }
    return f"""## Eight Gaussians to two moons

`taskset -c 0 python tests/bench/flow_matching.py`: one core, the same network of four layers of 64, batches of 256,
{found["steps"]} steps of Adam. torchcfm couples each batch anew; here 512 batches are coupled once, before the
training, and their time is counted. Faster in both was asked: independent pairs train at {times["independent"]:.2f} of
torchcfm's speed, about half of a step being the call and not the computation, transport {times["transport"]:.1f} times
its speed. Transport takes {found["ratio"]:.2f} times as long as independent pairs (at most 1.5 was asked). Distances
are of 1000 points, one training each.

{table(["trained by", "s", "W2", "floor"], lines)}"""


def reflow() -> str:
    """Flows trained on their own pairs."""
    found = stored("reflow")
    names = ("cost", "straightness", "one_step_error", "W2_one_step", "W2_ode", "W2_floor")
    lines, falls = [], {name: 0 for name in names[:3]}
    seeds = [rows for of_problem in found["rows"].values() for rows in of_problem]
    for problem, of_problem in found["rows"].items():
        for i, stage in enumerate(found["stages"]):
            means = [statistics.mean(rows[i][name] for rows in of_problem) for name in names]
            lines.append([problem, stage, *(f"{mean:.3g}" for mean in means)])
    again = dict(falls)
    for rows in seeds:
        for name in falls:
            falls[name] += rows[1][name] < rows[0][name]
            again[name] += rows[2][name] < rows[1][name]
    head = ["from, to", "trained on", "transport cost", "straightness", "one step from the ODE's end"]
    head += ["W2, one step", "W2, ODE", "floor"]
    seconds = sum(row["seconds"] for rows in seeds for row in rows) / len(seeds) / len(found["stages"])
    return f"""## Reflow

`taskset -c 1 python tests/bench/reflow.py`: four layers of 64, {found["steps"]} steps of Adam, {len(seeds)} runs; means
over the seeds. Cost $\\mathbb E|x_1 - x_0|^2$, straightness (zero for straight lines) and the distance of one Euler
step's end from the ODE's were asked to fall: with one reflow they do in {_each(falls, len(seeds))} of {len(seeds)}
runs, with the second in {_each(again, len(seeds))}. Nearly all is gained by the first. Every stage begins from the same
weights; {seconds:.0f} s for each on a shared core. W2 is of 1000 points: one step after reflow is nearly as good as the
first ODE, which errs more than the floor.

{table(head, lines)}"""


def _each(counts: dict[str, int], most: int) -> str:
    """How often each falls, or once how often all do."""
    return str(most) if set(counts.values()) == {most} else ", ".join(str(count) for count in counts.values())


def to_flow() -> str:
    """A learned end of time."""
    found = stored("to_flow")
    names = list(next(iter(found["rows"].values()))[0])
    lines, said = [], []
    for density, of_density in found["rows"].items():
        fixed = [rows[names[0]] for rows in of_density]
        for name in names:
            rows = [each[name] for each in of_density]
            apart = [row["log_likelihood"] - one["log_likelihood"] for row, one in zip(rows, fixed, strict=True)]
            means = {key: statistics.mean(row[key] for row in rows) for key in rows[0]}
            line = [density, name, f"{means['log_likelihood']:.3f}"]
            line += ["" if name == names[0] else ", ".join(f"{each:+.3f}" for each in apart)]
            lines.append([*line, f"{means['end']:.2f}", f"{means['evaluations']:.0f}", f"{means['seconds']:.0f}"])
            if name != names[0]:
                within = sum(each >= -0.01 for each in apart)
                said.append(f"{density}, {name}: {within} of {len(apart)}")
    head = ["density", "end of time", "log-likelihood", "less that of a fixed end, by seed", "learned end"]
    head += ["evaluations", "s of training"]
    return f"""## A learned end of time (TO-FLOW)

`taskset -c 1 python tests/bench/to_flow.py`: {found["steps"]} steps of Adam, solves at {found["tolerance"]:g};
nats of held-out points. The weight is of the end of time in the loss, all optimised together. At most 0.01 nats below a
fixed end was asked, runs that are: {"; ".join(said)}.

{table(head, lines)}"""


def digits() -> str:
    """Digits: bits per dimension, and what a regulariser gains."""
    found = stored("digits")
    scored, tuning = found["likelihood"], found["tuning"]
    probes = [
        [
            str(row["probes"]),
            f"{row['mean']:.3f}",
            f"{row['sd_of_a_digit']:.3f}",
            f"{row['sd_of_the_mean']:.4f}",
            f"{row['bias']:+.4f}",
        ]
        for row in scored["rows"]
    ]
    lines = [
        [
            weight,
            f"{of_weight['bits']:.2f}",
            *(f"{row['evaluations']:.0f}: {row['W2']:.2f} ± {row['W2_sd']:.2f}" for row in of_weight["rows"]),
            f"{of_weight['seconds']:.0f}",
        ]
        for weight, of_weight in tuning["rows"].items()
    ]
    any_row = next(iter(tuning["rows"].values()))["rows"]
    floor = f"{any_row[0]['floor']:.2f} ± {any_row[0]['floor_sd']:.2f}"
    head = ["kinetic weight", "bits per dimension", *(f"{row['tolerance']:g}" for row in any_row), "seconds"]
    return f"""## Digits of 8 x 8 pixels

`python tests/bench/digits.py`: the network of `configs/digits.toml`, {found["steps"]} steps of flow matching in
{found["train_seconds"]:.0f} s of the processor, an eighth of the config's; one seed. {found["scored"]} held-out digits
cost {scored["exact"]:.3f} ± {scored["standard_error"]:.3f} bits per dimension by the exact trace. By Hutchinson's
estimate, {found["draws"]} draws of its probes: their mean, the standard deviation of a digit's estimate and of the mean
over the digits, and how far the mean is from the exact one.

{table(["probes", "bits per dimension", "of a digit", "of the mean", "bias"], probes)}

The same model trained on for {tuning["steps"]} steps, with the kinetic energy of its solutions as a penalty and
without; by the tolerance of the solve that samples, its evaluations and W2 of the samples from held-out digits, whose
two halves lie {floor} apart; bits by four probes. The penalty gains nothing at equal distance in this small
study, of one weight: its samples are further away at every tolerance, and their likelihood is less, for a tenth of the
evaluations at most. A rough solve is what saves: without it the distance is no greater at a tolerance of
{any_row[0]["tolerance"]:g} than at {any_row[-1]["tolerance"]:g}.

{table(head, lines)}"""
