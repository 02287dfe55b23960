"""The sections on known systems with something learned: closed forms, random pushes, the time of a step."""

import numpy as np
from report_format import stored, table, times


def closed_forms() -> str:
    """Whether the interaction of prey and predator is recovered."""
    found = stored("closed_form")
    lines, counts, seconds = [], [], []
    for noise, runs in found["runs"].items():
        counts.append(len(runs))
        for way in [name for name, value in runs[0].items() if isinstance(value, dict)]:
            rows = [run[way] for run in runs]
            within = sum(row["right"] and row["off"] <= 0.1 for row in rows)
            ahead = [np.inf if row["extrapolation"] is None else row["extrapolation"] for row in rows]
            inside = [one for row in rows if row["right"] for one in row["inside"]]
            seconds += [row["seconds"] for row in rows]
            lines.append(
                [
                    f"{100 * float(noise):g} %",
                    way[0],
                    way[2:],
                    f"{sum(row['network']['right'] for row in rows)} of {len(rows)}",
                    f"{sum(row['right'] for row in rows)} of {len(rows)}",
                    f"{within} of {len(rows)}",
                    f"{np.mean(inside):.2f} of {len(inside)}" if inside else "",
                    f"{np.median(ahead):.2f}",
                    f"{sum(one < 1 for one in ahead)} of {len(ahead)}",
                    f"{np.median([row['extrapolation_network'] for row in rows]):.3g}",
                ]
            )
    head = ("errors", "degree", "chosen by", "right terms, network alone", "right terms", "and within 10 %")
    head += ("in 90 %", "error to three times the span", "below 1", "that of the network")
    return f"""## An unknown interaction in closed form

`python tests/bench/closed_form.py --seeds 10 --noise 0.05`, and `--seeds 4 --noise 0.005 --gamma 1`, joined from
what the two printed: growth and death of prey and predator are known, a network of both adds to both rates, and 30
rows over three units of time, less than a cycle, are fitted, with errors of a share of each state's mean; whole
runs, {" and ".join(map(str, counts))} seeds. `[evaluate.closed_form]` finds the equation among all monomials of a
degree, by Schwarz's criterion (BIC) or the extended one, each set of terms fitted through the solve, in double
precision. Right are exactly one product in each rate; the fourth column is sparse regression of the network's rates
alone. With 5 % of errors, of seeds 0, 3 and 4 another set has a lower BIC than the true one, which no search can
mend. Within 10 % are both coefficients; "in 90 %" is the share of coefficients within their intervals, of runs with
the right terms. Errors ahead, medians over all seeds, are root mean squares over the standard deviation of the true
trajectory; one that can not be solved so far is infinite. A whole evaluation took {np.median(seconds):.0f} s in the
median, less where a criterion found the other's programs compiled; other work ran on the machine.

{table(head, lines)}"""


def pushed_at_random() -> str:
    """Hare and lynx from five origins."""
    found = stored("hare_lynx")
    lines = [
        [name, *(f"{row[key]:.2f}" for key in ("NLL", "RMSE", "in 50 %", "in 90 %"))]
        for name, row in found["pooled"].items()
    ]
    return f"""## Hare and lynx, pushed at random

`python tests/bench/hare_lynx.py --members {found["members"]} --steps {found["steps"]}`, in two calls (`--only`):
Lotka and Volterra's equations, fitted to the years up to 1915, 1916, …, 1919 in turn, each time forecasting all
that follow up to 1920, {found["values"]} values of logarithms, which are not independent: 1920 is forecast five
times. Pushed at random (`nde.ObservedSDE`, in double precision) are both states, its rates, pushes and noise at the
maximum of the likelihood, or drawn around it; at three of five origins the hare's noise of observation is zero at
the maximum, where the draws are as wide as a bound of the study's makes them. The known system and the hybrid are
runs of `configs/hybrid_lynx_hare.toml` with fewer members and steps than it has. Shares within intervals are
ideally 0.5 and 0.9; of the equations none holds 0.9.

{table(("method", "NLL", "RMSE", "in 50 %", "in 90 %"), lines)}"""


def fit_steps() -> str:
    """A step of two fits beside peers."""
    found = stored("hybrid_step")
    lines = []
    for name, row in found["rows"].items():
        ms = row["ms"]
        peers = [way for way in ms if way != "nde"]
        lines.append(
            [name, f"{ms['nde']:.2f} ms", *(f"{ms[way]:.2f} ms, {times(ms[way] / ms['nde'])}" for way in peers)]
        )
    peers = [way for way in next(iter(found["rows"].values()))["ms"] if way != "nde"]
    return f"""## A step of a fit beside peers

`python tests/bench/hybrid_step.py`: gradient and Adam, the same fields, rows and tolerances in all, one thread,
float32; Tsit5, and in torchdiffeq Dormand and Prince's method. Processor time, for the machine was shared. Asked were 5
times torchdiffeq and 3 times diffrax: the latter is missed.

{table(("fit", "nde", *peers), lines)}"""
