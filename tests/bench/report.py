"""Writes tests/bench/README.md from the JSON files in tests/bench/results, and the table of README that quotes them.

    python tests/bench/report.py

A section is a function of `report_solves`, `report_peers` or `report_models` that returns text and tables, listed in
`SECTIONS`. A new benchmark stores its JSON, gets a function there, and the page is made again. `by_hand.md` is its last
part, of what was measured and not stored. A test holds page and README to what is made here.
"""

import re
from collections.abc import Callable
from pathlib import Path

from report_cde import cde_step
from report_contexts import contexts
from report_diffusion import (
    adaptive_sampler,
    diffusion_adjoints,
    likelihood,
    samplers,
)
from report_equations import closed_forms, fit_steps, pushed_at_random
from report_flows import digits, flow_matching, reflow, to_flow
from report_forecasters import forecasters
from report_format import HERE, table
from report_headlines import HEAD, headlines
from report_hybrids import ignition, white_dwarf
from report_irregular import irregular
from report_linear import linear
from report_many import many_series
from report_matching import matching
from report_models import fits, forecasts, regularisers, shooting
from report_peers import peers
from report_populations import dose_studies, doses, interval_coverage, learned_absorption, theophylline
from report_signatures import signatures
from report_solves import adjoints, engine, orders, sde
from report_training import faults, scaling, step_split

SECTIONS: list[Callable[[], str]] = [engine, peers, sde, orders, adjoints, regularisers, forecasts, fits, shooting]
SECTIONS += [cde_step, irregular, forecasters, matching, linear, signatures]
SECTIONS += [samplers, diffusion_adjoints, adaptive_sampler, likelihood, flow_matching, reflow, to_flow]
SECTIONS += [digits, contexts, doses, theophylline, learned_absorption, dose_studies, interval_coverage]
SECTIONS += [white_dwarf, ignition, many_series]
SECTIONS += [closed_forms, pushed_at_random, fit_steps]
SECTIONS += [step_split, scaling, faults]

INTRODUCTION = """# What was measured

Two CPU cores, jax 0.10.2, diffrax 0.7.2, float32 unless said otherwise; medians of alternating calls in one process,
after warm-up. `python tests/bench/report.py` makes this page from the files in `results/`; each section names the
script that made them. Its last three sections, of results that were not stored, are `by_hand.md`. No accelerator has
been measured yet."""

README = HERE.parents[1] / "README.md"
QUOTED = re.compile(r"(?<=<!-- made by tests/bench/report.py -->\n).*?(?=\n<!-- end -->)", re.S)


def page() -> str:
    """The page."""
    written = (HERE / "by_hand.md").read_text(encoding="utf-8").strip()
    return "\n\n".join([INTRODUCTION, *(section() for section in SECTIONS), written]) + "\n"


def quoted() -> str:
    """The table in README."""
    return table(HEAD, headlines())


def write(readme: Path = README) -> None:
    """Write the page, and the table into README."""
    (HERE / "README.md").write_text(page(), encoding="utf-8")
    readme.write_text(QUOTED.sub(lambda _: quoted(), readme.read_text(encoding="utf-8"), count=1), encoding="utf-8")


if __name__ == "__main__":
    write()
