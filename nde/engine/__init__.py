r"""The engine: `diffeqsolve`, a drop-in for diffrax's with a loop and a gradient of its own.

solve.py            the entry; checks.py and check_sde.py: what it refuses at once; fixed.py: how many steps a grid has
diffrax_entry.py    the engine inside of diffrax's entry; unchecked_times.py: what it takes without diffrax's callbacks
batched_loop.py     the adaptive loop and its adjoint over all levels of `vmap`
buckets.py          batches whose examples need very different numbers of steps

**One solve, from its call to its gradient.** Each arrow is a hand-over, with the type that is handed.

1. `diffeqsolve` (solve.py) checks the call: `checks.check_call` what no trace is needed for, `check_sde.check_sde`
   whether solver, noise, path and times of an SDE fit one another. It wraps the adjoint as an `EngineLoop` and calls
   `diffrax.diffeqsolve`, whose entry checks the rest, turns time so that it runs forward, and prepares the first step.
2. diffrax calls back `EngineLoop.loop` where it would call an adjoint's loop. There the call becomes a
   `loop.Solve`, the solver a `steppers.AbstractStepper` (an explicit Runge-Kutta method unrolled, any other by its own
   `step`), and diffrax's state a `loop.LoopState`. `adjoint.prepare` may refuse the `loop.Problem` here.
3. **Steps that are known** (`fixed.count_steps`) → `loop.scan_grid`: a `jax.lax.scan` over the grid whose body is under
   `jax.checkpoint`. JAX differentiates it, and again: discretise-then-optimise with no rule of ours. → 7.
4. **Steps that are chosen as it goes** → `loop.TracedProblem`: closure conversion traces the functions of one example
   (a step with the controller's word on it, what each `SubSaveAt` saves) once, and makes every array that they close
   over one of `consts`. → `batched_loop.run_batched` binds a primitive (loop/batching.py) that notes each `vmap` and
   looks into none.
5. When all levels of `vmap` are known the primitive is lowered, or differentiated. `loop.AdaptiveLoop` then runs a
   `while_loop` over the flat batch: `advance` tries a step of every example that still runs, and what was accepted goes
   into the `SaveBuffer`s and, if the solve is differentiated, into the `Checkpoints`. A rejected step leaves nothing.
6. **The backward pass.** `adjoint.run_loop` is handed the loop as a value (`loop.Loop`, a few methods) and gives it a
   backward pass by `loop.with_vjp`. That of `CheckpointAdjoint` and `ReversibleAdjoint` is a `loop.ReverseSweep`:
   from the last accepted step to the first, cotangents of rows saved in it (`save_cotangents`), the VJP of the step,
   one sum for each parameter over the whole batch, and the cotangents of the step's ends to what these depend on
   (`accepted_times`). `ContinuousAdjoint` solves the costate's equation instead: optimise-then-discretise.
7. The `loop.LoopOutcome` goes back to `EngineLoop`: events are located inside the last step, the ends are saved, a
   failure becomes a result, and all of it diffrax's state again, of which its entry makes the `Solution`.

To add an adjoint: a class of `adjoints.AbstractAdjoint`, whose docstring says what is called when.
"""

from nde.engine.buckets import map_in_buckets as map_in_buckets
from nde.engine.checks import Call as Call, check_call as check_call
from nde.engine.solve import diffeqsolve as diffeqsolve
