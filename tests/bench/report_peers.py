"""The section on other packages, and what stands over the floor."""

from typing import Any

from report_format import HERE, stored, table, times

LABELS = {
    "LV": "Lotka–Volterra, one trajectory",
    "LV1000": "Lotka–Volterra, batch 1000",
    "MLP": "MLP 64, 2 s, one trajectory",
    "MLP128": "MLP 64, 2 s, batch 128",
    "wide": "a state of 64, batch 256",
    "Tsit5": "Tsit5, 64 fixed steps, one trajectory",
    "Tsit5-256": "Tsit5, 64 fixed steps, batch 256",
    "EM": "Euler–Maruyama, 128 steps, one trajectory",
    "EM-256": "Euler–Maruyama, 128 steps, batch 256",
}
PACKAGES = {
    "diffrax": "diffrax",
    "gradsolve": "gradsolve",
    "gradsolve, replay alone": "gradsolve, replay alone",
    "tinydiffeq": "tinydiffeq",
    "tinydiffeq, unrolled": "tinydiffeq, unrolled",
    "torchdiffeq": "torchdiffeq",
}
WAYS = ("gradient", "forward")


def peers() -> str:
    """Gradient and forward solve beside other packages."""
    found = stored("peers")
    rows = {name: found["rows"][name] for name in LABELS if name in found["rows"]}
    floors = [
        [
            LABELS[name],
            _duration(row["nde"]["gradient_ms"]),
            *(f"{1 / row[f'floor, {way}']['gradient_ratio']:.2f}" for way in ("recomputed", "stored")),
        ]
        for name, row in rows.items()
        if "floor, stored" in row
    ]
    busy = (
        " **The machine was busy with other work: a first look, no measurement.**"
        if max(max(row["load"]) for row in rows.values()) > 3
        else ""
    )
    versions = ", ".join(f"{name} {number or 'not installed'}" for name, number in found["versions"].items())
    return f"""## Other packages

`python tests/bench/peers.py`, with {versions}.
Load of the machine {_loads(rows)}.{busy}

Their time over ours: below one is a loss. Adaptive solves are at 1e-6, each package at its own control of the steps;
fixed steps are of a scalar state. gradsolve records the accepted steps and differentiates their replay, with the
weights compiled in. tinydiffeq has as many slots for steps as the row needs; unrolled, eight steps an iteration.

Gradient:

{table(["problem", "nde", *PACKAGES.values()], [_line(name, row, "gradient") for name, row in rows.items()])}

Forward:

{table(["problem", "nde", *PACKAGES.values()], [_line(name, row, "forward") for name, row in rows.items()])}

{_reasons(rows)}

Our gradient on fixed steps over that of a scan of the same steps by hand, the inside of each step recomputed or
stored:

{table(["problem", "nde", "over recomputed", "over stored"], floors)}{_one_kernel(rows)}"""


def _one_kernel(rows: dict[str, Any]) -> str:
    """What XLA's limit on loops that become one kernel costs, where it was measured."""
    if not (HERE / "results" / "peers_one_kernel.json").exists():
        return ""
    found = stored("peers_one_kernel")
    lines = [
        [LABELS[name]]
        + [f"{row['nde'][f'{way}_ms'] / found['rows'][name]['nde'][f'{way}_ms']:.1f} ×" for way in WAYS]
        + [times(found["rows"][name]["diffrax"][f"{way}_ratio"]) for way in WAYS]
        for name, row in rows.items()
        if name in found["rows"]
    ]
    return f"""

On a CPU, XLA makes one kernel of a loop whose iteration reads and writes less than 1 KiB; those of any other loop are
made of many small calls, and for a small state these are most of the time. With
`XLA_FLAGS={found["machine"]["XLA_FLAGS"]}` (load {_loads(found["rows"])}) nde is faster than without by:

{table(["problem", "gradient", "forward", "diffrax, gradient", "diffrax, forward"], lines)}"""


def _line(name: str, row: dict[str, Any], what: str) -> list[str]:
    ratios = [row[package].get(f"{what}_ratio") for package in PACKAGES]
    return [LABELS[name], _duration(row["nde"][f"{what}_ms"])] + ["" if x is None else times(x) for x in ratios]


def _loads(rows: dict[str, Any]) -> str:
    found = [x for row in rows.values() for x in row["load"]]
    return f"{min(found):.1f} to {max(found):.1f}"


def _duration(ms: float) -> str:
    return f"{1e3 * ms:.0f} µs" if ms < 1 else f"{ms:.3g} ms" if ms < 1000 else f"{ms / 1e3:.2f} s"


def _reasons(rows: dict[str, Any]) -> str:
    """Why a package has no figure, once each."""
    reasons: dict[str, list[str]] = {}
    for row in rows.values():
        for package in PACKAGES:
            reason = row[package].get("left_out")
            if reason and reason not in reasons.setdefault(package, []):
                reasons[package].append(reason)
    parts = [f"{PACKAGES[package]}: {'; '.join(found)}" for package, found in reasons.items() if found]
    return f"Left out, and why. {'. '.join(parts)}."
