"""The section on forecasters of irregular series."""

import statistics

from report_format import stored, table


def forecasters() -> str:
    """Every forecaster on PBC, beside the latent SDE and the baselines."""
    found, parts = stored("forecasters"), []
    for task, rows in found["summary"].items():
        lines = []
        for row in sorted(rows, key=lambda row: row["nll"]):
            method = row["method"]
            difference = ["", ""]
            if row["nll_error"]:  # zero of the reference itself
                difference = [_signed(row[f"{kind}_difference"], row[f"{kind}_error"]) for kind in ("nll", "crps")]
            lines.append([method, f"{row['nll']:.3f}", f"{row['crps']:.3f}", *difference, *_cost(found, method)])
        head = ["method", "NLL", "CRPS", "latent SDE − method, NLL", "CRPS", "training, s", "steps", "step, ms"]
        folds = found["scores"][task][rows[0]["method"]]
        counts = [count for fold in folds.values() for count in fold[2]]
        size = f"{sum(count > 0 for count in counts)} patients, {sum(counts):.0f} values, {len(folds)} folds"
        parts.append(f"{task}: {size}.\n\n{table(head, lines)}")
    body = "\n\n".join(parts)
    return f"""## Forecasters of irregular series on primary biliary cirrhosis

`python tests/bench/forecasters.py`: each patient scored once, by models that were trained on the other folds; scores
per value in standardised units, lower is better; differences are paired, ± their standard error over patients. One
member of each model, on the settings of `configs/latent_sde_pbc.toml`, which were chosen for the latent SDE; nothing
was tuned for the others. Training is processor time of a fold, validations included, compilation not; steps are those
until no validation was better; medians over the folds, on a machine with other work. "X to Y" is the causal
`encoder_decoder` of encoder X and decoder Y.

{body}"""


def _signed(difference: float, error: float) -> str:
    return f"{difference:+.3f} ± {error:.3f}".replace("-", "−")


def _cost(found, method: str) -> list[str]:
    """Processor seconds, steps and milliseconds a step of a method's training; medians over the folds."""
    folds = found["training"].get(method, {}).values()
    if not folds:
        return ["", "", ""]
    return [
        f"{statistics.median(fold[key] for fold in folds):.0f}" for key in ("processor_seconds", "steps", "step_ms")
    ]
