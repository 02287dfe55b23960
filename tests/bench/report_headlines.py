"""The rows of the page that README quotes, losses among them."""

import statistics
from typing import Any

from report_format import stored, times

HEAD = ("what", "result", "compared with")


def headlines() -> list[list[str]]:
    """The table of README: what was measured, what came out, beside what."""
    return [*_solves(), *_adjoints(), *_regularisers(), *_models()]


def _solves() -> list[list[str]]:
    ode, sde, latent = stored("engine")["rows"], stored("sde")["rows"], stored("latent_step")
    network, wide = ode["A"], ode["wide"]
    euler = sde["euler"]
    memory = euler["gradient_memory_MiB"]
    return [
        [
            "adaptive ODE, MLP of width 64, batch 128",
            f"gradient {times(network['gradient_ratio'])} as fast, forward {times(network['forward_ratio'])}",
            "diffrax 0.7.2",
        ],
        [
            "adaptive ODE, 21 steps, a state of 64, batch 256",
            f"gradient {times(wide['gradient_ratio'])} as fast, forward {times(wide['forward_ratio'])}",
            "diffrax",
        ],
        [
            "Euler–Maruyama, 1000 steps, batch 256",
            f"gradient {times(euler['gradient_ratio']['diffrax'])} as fast, in {memory['nde']:.1f} MiB for "
            f"{memory['diffrax']:.1f}: **more**",
            "diffrax with its Brownian tree",
        ],
        [
            "a training step of the latent SDE on PBC",
            f"{latent['nde']['gradient_ms']:.0f} ms for {latent['diffrax']['gradient_ms']:.0f}",
            "diffrax's loop on the same Brownian path",
        ],
        [
            "a training step of a neural CDE, 100 and 2000 knots, a midpoint step each",
            " and ".join(f"{times(_over_diffrax(rows))} as fast" for rows in ("100", "2000")),
            "diffrax",
        ],
    ]


def _over_diffrax(rows: str) -> float:
    ways = stored("cde_step")["rows"][rows]["ways"]
    return ways["diffrax"]["ms"] / ways["NeuralCDE"]["ms"]


def _adjoints() -> list[list[str]]:
    sde = stored("reversible")["rows"]["sde"]
    return [
        [
            "`nde.ReversibleAdjoint`, reversible Heun, SDE",
            f"{sde['reversible']['temporary_MiB']:.2f} MiB for {sde['checkpoint']['temporary_MiB']:.2f}, in "
            f"{sde['checkpoint']['ours_over_it']:.2f} of the time: **slower**",
            "`nde.CheckpointAdjoint`",
        ],
    ]


def _regularisers() -> list[list[str]]:
    found = stored("regularise_digits")
    plain, own = (_regularised(found, name) for name in ("none", "ERNODE"))
    share = own["evaluations"] / plain["evaluations"]
    return [
        [
            "ERNODE (`nde.regularise.ErrorEstimate`), a classifier of digits",
            f"{share:.2f} of the evaluations, held-out loss {own['loss']:.3f} for {plain['loss']:.3f}: **worse**",
            "no regulariser",
        ]
    ]


def _regularised(found: Any, name: str) -> dict[str, float]:
    """Medians over the seeds, at the weight that was chosen."""
    weight = found["chosen"][name]
    rows = [row["test"] for row in found["rows"] if (row["regulariser"], row["weight"]) == (name, weight)]
    return {key: statistics.median(row[key] for row in rows) for key in ("loss", "evaluations")}


def _models() -> list[list[str]]:
    rows = {row["method"]: row for row in stored("pbc_folds")["tasks"]["landmark, years 2 to 5"]["methods"]}
    own, best = rows["latent SDE, ensemble"], rows["mixed model + OU"]
    difference = f"{best['nll_difference']:.3f} ± {best['nll_error']:.3f}".replace("-", "−")
    lines = [
        [
            "latent SDE, PBC from year 2 to years 2 to 5: NLL per value",
            f"{own['nll']:.3f} for {best['nll']:.3f}, difference {difference}",
            "mixed model + Ornstein–Uhlenbeck",
        ]
    ]
    whats, results = [], []
    for config, what in (("hybrid_pendulum", "pendulum, 8 to 24 s"), ("hybrid_lynx_hare", "hare and lynx, five years")):
        rows = {row["method"]: row["RMSE"] for row in stored(f"fit_{config}")["methods"]}
        own, known = rows["known system + network"], rows["known system"]
        whats.append(what)
        results.append(f"{own:.3f} for {known:.3f}" + (": **worse**" if own > known else ""))
    lines.append([f"hybrid ODE, RMSE: {'; '.join(whats)}", "; ".join(results), "the known system alone"])
    return lines
