"""The sections on training: where a step's time goes, on several devices, and what survives."""

from report_format import stored, table

FAULTS = {
    "kill": ("`kill -9` at a random moment", "nothing"),
    "kill_together": ("`kill -9` of one or both of two processes that share each batch", "nothing"),
    "terminate": ("SIGTERM at a random moment", "nothing"),
    "half_written": ("a file of the last checkpoint cut in half", "the steps since the best, made again"),
    "flipped": ("a bit of the last checkpoint flipped", "the same"),
    "missing": ("a file of the last checkpoint removed", "the same"),
    "full_disk": ("a disk that fills", "the steps since the last checkpoint, made again"),
    "unsolvable": ("series that can not be solved", "their part of the gradient"),
    "not_finite": ("losses that become NaN, of whole batches", "the updates of these batches"),
}


def step_split() -> str:
    """What `nde profile` says of the shipped latent SDE."""
    (found,) = stored("profile")
    spent = found["seconds"]
    whole = sum(spent.values())
    lines = [[part, f"{1e3 * each:.2f} ms", f"{each / whole:.0%}"] for part, each in spent.items()]
    counts, kernels = found["counts"], ", ".join(f"{name} {share:.0%}" for name, share in found["kernels"].items())
    return f"""## Where a training step's time goes

`nde profile configs/latent_sde_pbc.toml`: {counts["solves"]} solves a step, each of
{counts["accepted"] / counts["solves"]:.0f} steps; {1e3 * whole:.1f} ms, of which the validation is its share of each
step. Compilation took {found["compile_seconds"]:.1f} s, and the gradient takes {found["temporary_bytes"] / 2**20:.1f}
MiB. Kernels: {kernels}.

{table(["part", "time", "share"], lines)}"""


def scaling() -> str:
    """Batches divided among host devices."""
    found = stored("scaling")
    lines = []
    for name, model in found["models"].items():
        strong, size = model["strong"], model["size"]
        row = [f"{strong[way] / strong['1']:.2f}" for way in ("2", "4", "4 turns")]
        weak = [f"{model['weak'][n][n] / model['weak'][n]['1']:.2f}" for n in ("2", "4")]
        lines.append([f"{name} (batch {4 * size}; {size} a device)", f"{strong['1']:.1f} ms", *row, *weak])
    return f"""## Several devices

`python tests/bench/scaling.py`: four host devices of one process on two cores (load {found["load"]}), called in turn;
times of a step divided by that of one device doing the same work, where 1.10 was asked. No real devices were measured.

{table(["model", "one device", "2 devices", "4 devices", "4 turns", "2 devices, weak", "4 devices, weak"], lines)}"""


def faults() -> str:
    """What was injected, and what was lost."""
    found = stored("faults")
    lines = []
    told = sum(found["faults"][name]["told"] for name in ("half_written", "flipped", "missing"))
    for name, one in found["faults"].items():
        what, lost = FAULTS[name]
        same = "" if "identical" not in one else f"{one['identical']} of {one.get('runs', one['injected'])}"
        lines.append([what, str(one["injected"]), str(one["survived"]), same, lost])
    return f"""## Faults

`python tests/bench/faults.py`: real runs of `nde fit` that are harmed and resumed until they end, a latent SDE
of some tens of seconds; the fourth column counts runs whose last and best checkpoint and metrics are
those of the run left in peace, to the bit. Not every file of a checkpoint is needed to read it: of those that were
harmed {told} were passed over for the one before, which the run says.

{table(["fault", "injected", "survived", "to the same bits", "what is lost"], lines)}"""
