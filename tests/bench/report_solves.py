"""The sections on solves: the engine, SDEs, orders of convergence, adjoints."""

from report_format import stored, table, times


def engine() -> str:
    """Gradients and forward solves of ODEs."""
    names = {
        "A": "A: MLP 64, batch 128",
        "A1": "A, one trajectory",
        "A64k": "A, `max_steps=65536`",
        "A256": "A256: MLP 256, batch 128",
        "A256-1024": "A256, batch 1024",
        "LV": "Lotka–Volterra, one trajectory",
        "LV1000": "Lotka–Volterra, batch 1000",
        "few": "few steps, 50 save times, batch 128",
        "few1": "few steps, 50 save times, one trajectory",
        "smooth": "smooth, batch 128",
        "wide": "a state of 64, batch 256",
    }
    rows = stored("engine")["rows"]
    lines = [
        [
            names[name],
            f"{row['steps']['accepted_steps']:.0f} of {row['steps']['steps']:.0f}",
            times(row["gradient_ratio"]),
            times(row["forward_ratio"]),
            f"{row['over_floor']:.2f}" if "over_floor" in row else "",
            f"{row['gradient_over_forward']:.1f}",
            f"{row['first_call_ratio']:.2f}",
            f"{row['memory_ratio']:.2f} ({row['nde']['temporary_MiB']:.2f} MiB)",
        ]
        for name, row in rows.items()
        if name in names
    ]
    head = [
        "problem", "steps accepted of tried", "gradient", "forward", "our gradient over its floor",
        "over our forward", "first call", "temporary memory",
    ]  # fmt: skip
    torch, uneven, latent = stored("engine_torch"), stored("uneven"), stored("latent_step")
    tree_ms = latent["diffrax, its tree"]["gradient_ms"]
    return f"""## ODEs: the engine beside diffrax

`python tests/bench/engine.py`. Tsit5 at 1e-6, both at their defaults. Times are diffrax's over ours; first call
(trace and compile) and memory are ours over diffrax's. A ratio below one in the first two columns is a loss. The floor
is our forward solve and a replay of its accepted steps by hand, one after the other (`tests/bench/floors.py`): where
the ratio is one, a sequential replay has nothing left to gain. For a small state it is no bound: there the time is that
of calling XLA's many small operations, and depends on how they are put together.

{table(head, lines)}

The lead is in long solves of networks; where a solve takes few steps, or its steps are tiny, little is gained. Expect
some 10 % on every figure from run to run, and more on those of one trajectory.

torchdiffeq's `odeint` takes {times(torch["ratio"]["odeint"])} the time of our gradient of problem A
(`tests/bench/engine_torch.py`).

A batch of 1024 Van der Pol oscillators of {uneven["steps_min_mean_max"][0]} to {uneven["steps_min_mean_max"][2]}
steps: `nde.map_in_buckets` takes {1 / uneven["vmap_over_buckets"]:.2f} of the time of one `vmap`, and
{uneven["buckets_over_by_hand"]:.2f} of that of the same work sorted by hand (`tests/bench/uneven.py`). At batch 128 a
single `vmap` is the faster one.

A training step of the latent SDE on PBC, 71 fixed steps, takes {latent["nde"]["gradient_ms"]:.0f} ms; diffrax's loop
takes {latent["diffrax"]["gradient_ms"]:.0f} on the same `BrownianGrid` and {tree_ms:.0f} on its own
tree. The first call takes {latent["nde"]["first_call_s"]:.1f} s, diffrax's {latent["diffrax"]["first_call_s"]:.0f} and
{latent["diffrax, its tree"]["first_call_s"]:.0f} (`tests/bench/latent_step.py`)."""


def sde() -> str:
    """Gradients and forward solves of SDEs, and Brownian motion alone."""
    names = {
        "heun": "Stratonovich Heun, 200 steps, `BrownianGrid`",
        "reversible": "reversible Heun, 200 steps, `ReversibleAdjoint`",
        "euler": "Euler–Maruyama, 1000 steps, `BrownianGrid`",
        "euler-plain": "the same, drift and diffusion sin(w y)",
        "euler-tree": "Euler–Maruyama, 1000 steps, `VirtualBrownianTree`",
        "inside": "adaptive Heun, 1e-3, `VirtualBrownianTree`",
        "inside-plain": "the same, drift and diffusion sin(w y)",
        "adaptive": "adaptive SPaRK, 1e-3, `VirtualBrownianTree`",
    }
    rows = stored("sde")["rows"]
    lines = []
    for name, label in names.items():
        row = rows[name]
        torch = ", ".join(
            times(value) + peer.removeprefix("torchsde").replace(", ", " its ")
            for peer, value in row["gradient_ratio"].items()
            if peer.startswith("torchsde")
        )
        memory = row["gradient_memory_MiB"]
        ratios = [times(row["forward_ratio"]["diffrax"]), times(row["gradient_ratio"]["diffrax"]), torch]
        lines.append([label, *ratios, f"{memory['nde']:.1f}, {memory['diffrax']:.1f}"])
    head = ["problem", "forward", "gradient", "gradient, torchsde", "gradient's memory, ours and diffrax's, MiB"]
    alone = stored("brownian")["results"]
    kinds = {"BrownianIncrement": "W", "SpaceTimeLevyArea": "W, H", "SpaceTimeTimeLevyArea": "W, H, K"}
    tree = [
        [label, *(times(alone[f"tree, {kind}, {order}"]["speedup"]) for order in ("in order", "shuffled"))]
        for kind, label in kinds.items()
    ]
    slow = [alone[f"grid, Euler-Maruyama, {way}"]["slowdown"] for way in ("forward", "gradient")]
    return f"""## SDEs and Brownian motion

`python tests/bench/sde.py`; batch 256, a state of 4 with diagonal noise, drift and diffusion each a network unless
the row says otherwise; diffrax with its own tree. Their time over ours.

{table(head, lines)}

`VirtualBrownianTree` alone, 256 keys and 200 queries, diffrax's time over ours (`python tests/bench/brownian.py`):

{table(["increments and Lévy areas", "queries in order", "shuffled"], tree)}

Euler–Maruyama of 1000 steps on the grid takes {slow[0]:.2f} (forward) and {slow[1]:.2f} (gradient) of the time of a
hand-written scan over increments drawn before it."""


def orders() -> str:
    """Strong orders of convergence."""
    rows = stored("orders")["rows"]
    lines = [
        [equation, solver, f"{found['order']:.2f}", "" if found["claimed"] is None else f"{found['claimed']:g}"]
        for equation, solvers in rows.items()
        for solver, found in solvers.items()
        if isinstance(found, dict) and "claimed" in found
    ]
    cir = rows["CIR"]
    return f"""## Strong orders

`python tests/bench/orders.py`: the slope of the strong error over the step, 1000 to 4000 paths.

{table(["equation", "solver", "measured", "claimed"], lines)}

Cox–Ingersoll–Ross as in Jelinčič, Foster and Kidger (2024), a splitting along its flows: order
{cir["constant"]["order"]:.2f} with constant steps, {cir["adaptive"]["order"]:.2f} with steps that shorten near zero;
their notebook has 0.78 and 1.82. The solver and the step-size controller are written for it, and run in the same loop
as any other."""


def adjoints() -> str:
    """Adjoints whose memory does not grow with the steps."""
    rows, continuous = stored("reversible")["rows"], stored("continuous")
    cells = {
        "sde": "reversible Heun, SDE, `BrownianGrid`",
        "sde-tree": "the same, `VirtualBrownianTree`",
        "sde-heun": "`Reversible(Heun)`, SDE, `BrownianGrid`",
    }
    lines = [
        [
            label,
            f"{rows[name]['checkpoint']['ours_over_it']:.2f}",
            f"{rows[name]['reversible']['temporary_MiB']:.2f}, {rows[name]['checkpoint']['temporary_MiB']:.2f}",
        ]
        for name, label in cells.items()
        if name in rows
    ]
    speed = continuous["speed"]
    peers = [
        [name, f"{row['gradient_ms']:.0f}", times(row["over_ours"]), f"{row['apart_from_discrete']:.1e}"]
        for name, row in speed.items()
    ]
    few, own = rows["sde"]["diffrax, 2 checkpoints"], rows["sde"]["reversible"]
    wrapped, plain = rows["A"]["reversible"], rows["A"]["Tsit5, checkpoint"]
    more = wrapped["num_field_evaluations"] / plain["num_field_evaluations"]
    ratio = max(row["ratio"] for name, row in rows["memory"].items() if isinstance(row, dict))
    return f"""## Adjoints with the memory of one state

`python tests/bench/reversible.py`, `python tests/bench/continuous.py`. `ReversibleAdjoint` at 4096 steps takes
{ratio:.3f} of its memory at 256. Its time over `CheckpointAdjoint`'s with the same solver, and both memories:

{table(["solve", "time", "MiB, reversible and checkpoint"], lines)}

The tree is asked again for increments that `CheckpointAdjoint` keeps. diffrax's default with the fewest checkpoints
takes {few["temporary_MiB"] / own["temporary_MiB"]:.0f} × the memory of the first row's `ReversibleAdjoint` and
{few["gradient_ms"] / own["gradient_ms"]:.0f} × its time. At equal tolerance, of problem A,
`Reversible(Tsit5)` with this adjoint takes {plain["ours_over_it"]:.1f} × as long as `Tsit5` with the default: it
evaluates the field {more:.1f} × as often.

Gradient of problem A, batch 128, against `ContinuousAdjoint`:

{table(["adjoint", "ms", "over ContinuousAdjoint", "distance from the discrete gradient"], peers)}

![Distance of the continuous adjoint's gradient from the discrete and the exact one](results/continuous.png)"""
