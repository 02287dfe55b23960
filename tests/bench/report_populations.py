"""The sections on doses and on populations."""

from statistics import mean

from report_format import stored, table


def doses() -> str:
    """What doses cost a solve."""
    found = stored("doses")
    lines = [
        [name, f"{ms:.1f} ms", str(found["steps"][name]), f"{1e3 * ms / found['steps'][name]:.0f} µs"]
        for name, ms in found["milliseconds"].items()
    ]
    ms, steps = found["milliseconds"], found["steps"]
    whole, each = (
        {way: ms[f"{way}, doses"] / ms[f"{way}, none"] / by[way] for way in ("adaptive", "pieces")}
        for by in (
            {"adaptive": 1.0, "pieces": 1.0},
            {way: steps[f"{way}, doses"] / steps[f"{way}, none"] for way in ("adaptive", "pieces")},
        )
    )
    return f"""## Doses and infusions

`python tests/bench/doses.py`: two compartments and a network, 64 series, each with five doses of its own, two of them
over a while, so with seven discontinuities; the gradient in all parameters. At most 1.3 times the solve without doses
was asked: it is {whole["adaptive"]:.1f} times with a controller of the error and {whole["pieces"]:.1f} times on a known
grid. A step with doses costs {each["adaptive"]:.2f} and {each["pieces"]:.2f} of one without; the rest are steps, for no
step may go past a discontinuity.

{table(["solve", "gradient", "steps", "a step"], lines)}"""


def theophylline() -> str:
    """A population with random effects."""
    found = stored("theophylline")
    nlme = found["nlme"]
    lines = [
        [
            name,
            f"{value:.4g}",
            f"{nlme['parameters'][name]:.4g}",
            f"{found['spread'][name]:.3f}",
            f"{nlme['spread'][name]:.3f}",
        ]
        for name, value in found["parameters"].items()
    ]
    lines.append(["errors (mg/L)", "", "", f"{found['noise']:.3f}", f"{nlme['noise']:.3f}"])
    apart = found["laplace"] - found["quadrature"]
    return f"""## A population: theophylline

`python tests/bench/theophylline.py`: twelve subjects, one compartment, independent random effects on all three
parameters, normal errors; {found["seconds"]:.0f} s, most of it compilation. The log marginal likelihood at the optimum
of Laplace's approximation is {found["laplace"]:.2f}, by adaptive Gauss–Hermite quadrature of the same model, written
with scipy and the closed form of the solution, {found["quadrature"]:.2f}: {apart:+.2f} apart, where 0.5 was asked, of
which {abs(found["steps_error"]):.2f} are the length of the steps. Beside it what nlme of R finds of the same model by
linearisation, with the log likelihood {nlme["log_likelihood"]:.2f}.

{table(["parameter", "typical value", "nlme", "standard deviation of the effect", "nlme"], lines)}"""


def learned_absorption() -> str:
    """A network beside first-order absorption, on subjects held out."""
    found = stored("learned_absorption")
    lines = []
    for name, folds in found["folds"].items():
        asked = [(way, key) for way in ("0 given", "2 given") for key in ("NLL", "RMSE")]
        scores = [f"{mean(f[way][key] for f in folds):.2f}" for way, key in asked]
        lines.append([name, *scores, f"{mean(f['0 given']['RMSE, fitted'] for f in folds):.3f}"])
    plain, learned = found["folds"].values()
    apart = [b["0 given"]["NLL"] - a["0 given"]["NLL"] for a, b in zip(plain, learned, strict=True)]
    return f"""## Theophylline with a learned absorption

`python tests/bench/learned_absorption.py`: the same population, fitted by FOCE in {found["steps"]} steps, and with it a
network of the amount in the gut, added to the rates of gut and blood and the same for all subjects. Four folds, in each
of which three of the twelve subjects are held out; scores are per value, of subjects of whom no value is given, or the
first two, which are then not scored. The network fits the nine subjects better and predicts those held out no better:
with none given the NLL of the four folds differs by {", ".join(f"{x:+.2f}" for x in apart)}.

{table(["absorption", "NLL, 0 given", "RMSE", "NLL, 2 given", "RMSE", "RMSE, fitted"], lines)}"""


def dose_studies() -> str:
    """Populations with doses beside one set of parameters for all."""
    found = stored("dose_studies")
    lines = []
    for name, study in found.items():
        for way in ("plain", "population, 0 given", "population, 1 given"):
            row = study[way]
            numbers = [f"{row[key]:.3g}" for key in ("NLL", "RMSE", "in 50 %", "in 90 %", "RMSE, fitted")]
            lines.append([name, str(study["subjects"]), way, *numbers])
    steps = ", ".join(sorted({str(study["steps"]) for study in found.values()}))
    return f"""## Three studies of drugs

`python tests/bench/dose_studies.py`: phenobarbital in neonates (sparse doses), quinidine in the first ten days (by
mouth, a protein in blood as covariate), remifentanil up to two hours (infusions); tables of R's nlme. One subject of
five is held out; scores are per value, of subjects of whom no value is given, or the first, which is then not scored.
Populations are fitted by FOCE in {steps} steps; the plain model is the same equation with the same parameters for all.

{table(["study", "subjects", "model", "NLL", "RMSE", "in 50 %", "in 90 %", "RMSE, fitted"], lines)}"""


def interval_coverage() -> str:
    """How often intervals cover the truth."""
    found = stored("coverage")
    lines = []
    for what, one in (("series", found["series"]), ("population", found["population"])):
        for name, share in one["coverage"].items():
            lines.append([what, name, f"{share:.3f}"])
        lines.append([what, "all", f"{one['mean']:.3f}"])
    series, population = found["series"], found["population"]
    return f"""## Coverage of intervals

`python tests/bench/coverage.py`: Laplace intervals of 90 % on simulated data, in double precision, by the observed
curvature at the maximum that a search from the truth finds (not through `nde.report.Posterior`): {series["sets"]}
series of 20 values of logistic growth (a standard error of {series["standard_error_of_each"]:.3f} for each share),
and {population["sets"]} populations of {population["subjects"]} subjects with five values each
({population["standard_error_of_each"]:.3f}), by FOCE. 0.85 to 0.95 was asked: populations reach it in all their
numbers; a series misses it in its noise, whose maximum likelihood is too low at 20 values, and so in the mean of
all. Converged: {series["converged"]} and {population["converged"]}.

{table(["data", "unknown", "share of intervals with the truth"], lines)}"""
