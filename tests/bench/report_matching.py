"""The section on SDE Matching, of those of its parts that are stored."""

from typing import Any

from report_format import HERE, stored, table


def matching() -> str:
    """The bound without simulation beside the simulated one."""
    parts = [part for part in (_kalman(), _speed(), _lorenz(), _notebook()) if part]
    return "\n\n".join(["## SDE Matching", "`python tests/bench/sde_matching.py PART`, a part a result.", *parts])


def _found(part: str) -> Any:
    """A part's result, or nothing."""
    name = f"sde_matching_{part}"
    return stored(name) if (HERE / "results" / f"{name}.json").exists() else None


def _kalman() -> str:
    found = _found("kalman")
    if found is None:
        return ""
    return f"""**A linear-Gaussian model**: {found["series"]} series of the Ornstein–Uhlenbeck data,
{found["observations"]} observations each, the prior exact, the marginals of each series learned in {found["steps"]}
steps: the bound lies
{found["gap"]:.3f} nats a series below the likelihood in the mean, {found["largest_gap"]:.3f} for the worst (asked:
0.05)."""


def _speed() -> str:
    found = _found("speed")
    if found is None:
        return ""
    lines = [
        [f"{rows} rows, {each['steps_a_gap']} steps from one to the next", name, f"{ms:.0f}", f"{ratio:g} ×"]
        for rows, each in found["rows"].items()
        for (name, ms), ratio in zip(each["gradient_ms"].items(), each["of_simulation"].values(), strict=True)
    ]
    head = ["series", "bound", "gradient, ms", "of the simulation by 4 paths"]
    return f"""**Time a step**, a batch of {found["batch"]} series of three channels, {found["samples"]} samples,
networks of 100 units (load {found["load"]}):

{table(head, lines)}"""


def _lorenz() -> str:
    trained = {name: _found(f"lorenz_{name}") for name in ("matching", "simulation")}
    trained = {name: found for name, found in trained.items() if found is not None}
    if not trained:
        return ""
    lines = []
    for name, found in trained.items():
        bound = found["bound"]["matching" if name == "matching" else "simulated"]
        lines.append(
            [
                f"{name}, {found['steps']} steps of {found['batch']} series",
                f"{found['training_s']}",
                f"{bound['bound']:.1f} ± {bound['error']:.1f}".replace("-", "−"),
                f"{found['their_loss']:.1f}".replace("-", "−"),
                ", ".join(f"{x:.3f}" for x in found["noise"]),
                ", ".join(f"{x:.2f}" for x in found["diffusion_of_the_truth"]),
                f"{100 * found['coverage_of_90']:.0f} %",
                ", ".join(_distance(law) for law in found["law"].values()),
            ]
        )
    head = ["trained by", "s", "bound", "notebook's loss", "noise (0.01)", "diffusion, of the truth's", "90 % hold"]
    first = next(iter(trained.values()))
    again = ", ".join(f"{max(law['another draw of the truth']):.2f}" for law in first["law"].values())
    text = f"""**Stochastic Lorenz**: 1024 series of 41 rows, four latent states; scored on 256 series that were not
seen, in nats a series. The true equation has {first["ekf_log_likelihood"]:.1f}, by an extended Kalman filter. The law
is the prior's at 1, 2 and 5 times the trained horizon: the largest Wasserstein distance of a coordinate from the truth,
in standard deviations; another draw of the truth has {again}. The public notebook's loss is both
divergences plus the reconstruction of *one* row in 41, which is no bound: reconstruction weighs a 41st of what it
should. Load {first["load"]}.

{table([*head, "law at 1, 2, 5 ×"], lines)}"""
    if "matching" in trained:
        few = trained["matching"]["bound_of_64_series"]
        matched, solved = few["matching"], few["simulated, 100 steps a gap"]
        text += f"""

On 64 series the bound of the model that was trained by matching is {matched["bound"]:.1f} by matching and
{solved["bound"]:.1f} by simulation with 100 steps from one row to the next."""
    return text


def _notebook() -> str:
    found = _found("notebook")
    if found is None:
        return ""
    reached = found["seconds_to_56.5"]
    last = found["course"][-1]
    said = "not reached" if reached is None else f"reached after {reached:.0f} s"
    return f"""**The public notebook's own objective**, noise of 0.01 from the start, ends there at 56.5 after 641 s:
here it is {said}; after {last[0]:.0f} s it is {last[1]:.1f} (load {found["load"]})."""


def _distance(law: dict[str, Any]) -> str:
    lost = f" ({law['not finite']} of 1000 blew up)" if law["not finite"] else ""
    return f"{max(law['model']):.2f}{lost}"
