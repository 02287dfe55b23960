"""The sections on diffusion models: likelihood, samplers, adaptive sampling."""

from typing import Any

from report_format import stored, table


def likelihood() -> str:
    """The log-likelihood of a mixture by the probability-flow ODE."""
    found = stored("mixture_likelihood")
    lines = [
        [
            row["schedule"],
            str(row["size"]),
            row["precision"],
            f"{row['tolerance']:.0e}",
            *(f"{row[name]:.1e}" for name in ("largest_error", "rms_error")),
            f"{abs(row['error_of_the_mean']):.1e}",
            f"{abs(row['error_of_the_mean_of_a_normal_end']):.1e}",
            f"{row['evaluations']:.0f}",
        ]
        for row in found["rows"]
        if row["divergence"] == "exact" and row["tolerance"] in (1e-4, 1e-5, 1e-6)
    ]
    head = ["schedule", "dimensions", "precision", "tolerance", "largest error", "root mean square"]
    head += ["of the mean", "of the mean, normal end", "evaluations"]
    probes = [row["rms_error"] for row in found["rows"] if row["divergence"] == "one probe"]
    fine = [row["largest_error"] for row in found["rows"] if row["tolerance"] == 1e-6]
    return f"""## Likelihood of a mixture by its probability-flow ODE

`python tests/bench/mixture_likelihood.py`: {found["points"]} points of a mixture of four Gaussians, the log-density by
Tsit5 with the exact divergence beside the state, against its closed form; errors in nats. Within 1e-3 at every point
was asked: at 1e-6 the largest error of all is {max(fine):.1e}. The mean over the points, which is what one reports, is
there from 1e-5 on. A model takes the law at the noise's end for a normal one; that alone moves the mean by what the
column of the normal end says. One Hutchinson probe a point spreads its log-density by {min(probes):.1f} to
{max(probes):.1f} nats.

{table(head, lines)}"""


def samplers() -> str:
    """All samplers at few evaluations, and guidance."""
    found = stored("samplers")
    parts = [_by_ode(found["ode"])]
    if "sde" in found:
        parts.append(_by_sde(found["sde"]))
    if "guidance" in found:
        parts.append(_by_guidance(found["guidance"]))
    parts.append(_orders(stored("sampler_orders")))
    return "## Samplers of diffusion models at few evaluations\n\n" + "\n\n".join(parts)


def best(part: dict[str, Any], count: int, variance: str, by: str = "mean") -> tuple[float, str, str]:
    """The least mean distance of all samplers and grids: it, the sampler, the grid."""
    return min(
        (of_name[str(count)][by], name, grid)
        for grid, of_grid in part[variance].items()
        for name, of_name in of_grid.items()
        if str(count) in of_name
    )


def _by_ode(part: dict[str, Any]) -> str:
    counts, variances, said = ("5", "10", "20"), list(part), []
    lines = []
    for name in part[variances[0]]["log-SNR"]:
        line = [f"`{name}`"]
        for variance in variances:
            for count in counts:
                of_grids = {grid: part[variance][grid][name].get(count) for grid in part[variance]}
                line.append(" / ".join("" if row is None else f"{row['mean']:.2g}" for row in of_grids.values()))
        lines.append(line)
    for variance in variances:
        least, name, grid = best(part, 10, variance)
        heun = {each: part[variance][each]["heun"]["10"]["mean"] for each in part[variance]}
        said.append(
            f"at variance {variance} the best at 10 evaluations is `{name}`, times even in {grid}, with {least:.2g}: "
            f"{least / heun['log-SNR']:.2f} of Heun's in x on times even in log-SNR, "
            f"{least / min(heun.values()):.2f} of Heun's on its own best times"
        )
    by_squares = [
        f"{best(part, 10, variance, 'rms')[0] / part[variance]['log-SNR']['heun']['10']['rms']:.2f}"
        for variance in variances
    ]
    grids = ", ".join(part[variances[0]])
    head = ["sampler", *(f"{variance}: {count}" for variance in variances for count in counts)]
    return f"""`python tests/bench/samplers.py`: three modes in the plane, variance preserving, the exact prediction.
Mean distance of a sample's end from that of the probability-flow ODE solved from the same noise, by the variance of the
modes and the evaluations; in a cell times even in {grids}, in turn. A quarter of Heun's in x was asked:
{"; ".join(said)}. The best was chosen on the same points. By root mean squares, to which few samples that are far off
count more, the best has {" and ".join(by_squares)} of Heun's.

{table(head, lines)}"""


def _by_sde(part: dict[str, Any]) -> str:
    lines = []
    for name in part["0.15"]:
        line = [f"`{name}`"]
        for variance in part:
            for count in ("10", "20", "40"):
                row = part[variance][name].get(count)
                line.append("" if row is None else f"{row['energy_distance']:.3f} ({row['within_modes']:+.2f})")
        lines.append(line)
    floors = [
        f"{row['floor']:.3f} ± {row['floor_sd']:.3f} ({variance})"
        for variance in part
        for row in [next(iter(part[variance]["ddim"].values()))]
    ]
    head = ["sampler", *(f"{variance}: {count}" for variance in part for count in ("10", "20", "40"))]
    return f"""Samplers that draw noise, beside two that do not, times even in log-SNR: the energy distance of 1000
samples from the law at the data's end, and in brackets the relative error of the variance within modes. Two samples of
that law lie {" and ".join(floors)} apart: nothing can be told below that.

{table(head, lines)}"""


def _orders(found: dict[str, Any]) -> str:
    lines = [
        [
            f"`{name}`",
            *(
                "exact" if row["order"] is None else f"{row['order']:.2f} ({row['errors'][-1]:.1e})"
                for of_name in found["sde"].values()
                for row in (of_name[name]["mean"], of_name[name]["variance"])
            ),
        ]
        for name in found["sde"]["VP"]
    ]
    last = found["steps"][-1]
    head = ["sampler", *(f"{name}: {moment}" for name in found["sde"] for moment in ("mean", "variance"))]
    return f"""Weak orders, `python tests/bench/sampler_orders.py`, double precision: slopes of the errors of mean
and variance at the end between {found["steps"][-2]} and {last} steps even in log-SNR, and in brackets the relative
error at {last}. The data are Gaussian, so that the law of a sampler's end is known to rounding without a draw; the mean
is exact wherever the prediction's mean is integrated exactly. What noise does within a step of a field that is not
linear does not show here.

{table(head, lines)}"""


def _by_guidance(rows: list[dict[str, Any]]) -> str:
    lines = [
        [
            f"{row['scale']:.0f}",
            f"`{row['sampler']}`" + (", thresholded" if row.get("thresholded") else ""),
            str(row.get("evaluations", "")),
            f"{row['outside']:.2f}",
            f"{row['largest']:.2f}",
            f"{row['distance_from_the_nearest_mean_in_std']:.1f}",
            f"{row['distance_from_the_exact_end']:.2f}",
        ]
        for row in rows
        if row["scale"] in (1.0, 8.0) and row.get("evaluations", 20) in (10, 20)
    ]
    head = ["scale", "sampler", "evaluations", "share outside", "largest coordinate"]
    head += ["distance from a mean, in its standard deviation", "from the exact end"]
    few = {(row["sampler"], row.get("thresholded")): row for row in rows if row["scale"] == 8.0}
    few |= {
        (row["sampler"], row["thresholded"]): row
        for row in rows
        if row["scale"] == 8.0 and row.get("evaluations") == 10
    }
    noise, data = few["dpm_solver_2", False], few["dpm_solver++_2m", True]
    return f"""Guidance without a classifier, two classes of two modes each in 16 dimensions within [-1, 1], times even
in log-SNR: the share of samples with a coordinate outside. At a scale of 8 and 10 evaluations the noise-predicting
method of order 2 leaves the range with {100 * noise["outside"]:.0f} % of the samples, as far as {noise["largest"]:.1f},
and 2M with thresholding with {100 * data["outside"]:.1f} %, as far as {data["largest"]:.2f}; a small share of the
mixture itself lies outside. At 20 evaluations neither leaves it. 2M without thresholding does as well: what tells is
the data prediction.

{table(head, lines)}"""


def adaptive_sampler() -> str:
    """Adaptive steps for the reverse SDE, beside Euler–Maruyama."""
    found = stored("adaptive_sampler")
    lines, said = [], []
    for name in ("VP", "VE"):
        for row in found[name]["adaptive"]:
            equal = [row["euler_maruyama even in t"], row["euler_maruyama even in log-SNR"]]
            lines.append(
                [
                    name,
                    row["controller"],
                    f"{row['tolerance']:g}",
                    f"{row['evaluations']:.0f}",
                    f"{100 * row['rejected']:.1f} %",
                    f"{row['within_modes']:+.3f}",
                    f"{row['masses_in_standard_errors']:.1f}",
                    *("" if each is None else f"{each:.0f}" for each in equal),
                ]
            )
        curve = [
            f"{row['evaluations']}: {row['within_modes']:+.3f}"
            for row in found[name]["euler_maruyama"]
            if row["grid"] == "even in t"
        ]
        said.append(f"{name} {', '.join(curve)}")
    floor = found["VP"]["floor"]["within_modes_error"]
    head = ["schedule", "controller", "relative tolerance", "evaluations", "rejected", "error within modes"]
    head += ["masses, in standard errors", "Euler–Maruyama's at equal error, even in t", "even in log-SNR"]
    return f"""## Adaptive steps for the reverse SDE

`python tests/bench/adaptive_sampler.py`: five modes of standard deviation 0.05 in {found["size"]} dimensions,
{found["points"]} samples, Heun's method with its embedded error estimate. The error within modes is that of the mean
squared distance from the nearest mean, relative, with a standard error of {floor:.3f}; of Euler–Maruyama, even in t,
{"; ".join(said)}.

At most 5 % rejected and half of Euler–Maruyama's evaluations were asked. Half the gain rejects a quarter of the steps
on VP; a proportional and integral controller with more safety keeps below 5 % up to a tolerance of 0.1, but its three
numbers were chosen among some fifteen on these very problems. There it takes a fifth of the evaluations of
Euler–Maruyama with times even in t, and as many as Euler–Maruyama with times even in log-SNR: it finds that grid by
itself, and gains nothing beyond. On VE, whose even times are even in log-SNR, Euler–Maruyama needs less than half of
its evaluations: the target is missed.

{table(head, lines)}"""


def diffusion_adjoints() -> str:
    """Gradients through samplers."""
    found = stored("diffusion_adjoints")
    lines = [[name, *(f"{error:.1e}" for error in errors)] for name, errors in found["errors"].items()]
    costs = [
        [name, *(f"{each[name]['ms']:.0f} ms, {each[name]['MiB']:.2f} MiB" for each in found["costs"].values())]
        for name in next(iter(found["costs"].values()))
    ]
    return f"""## Gradients through samplers

`python tests/bench/diffusion_adjoints.py`: two modes of variance 0.01, the gradient of a function of the sample in the
start; median relative error at 10, 20 and 50 steps, "discrete" by `nde.CheckpointAdjoint`, "continuous" by
`nde.ContinuousAdjoint`, which is AdjointDPM and AdjointDEIS for all but Heun in x. A smaller error of the continuous
gradient in the variables without the linear part than in x was asked at all three. One-step methods in the data form
have it at 10 steps alone, a multistep costate and the noise form at none: on this grid, even in log-SNR, Heun in x is a
good method. The gradient of the discrete solve is mostly the better one.

{table(["solver, gradient", *(f"{steps} steps" for steps in found["steps"])], lines)}

Time and memory of a gradient through a network of width 64 on 64 points, load {found["load"]}:

{table(["solver, adjoint", *(f"{steps} steps" for steps in found["costs"])], costs)}"""
