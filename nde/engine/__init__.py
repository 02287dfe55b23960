"""The engine: `diffeqsolve`, a drop-in for diffrax's with a loop and a gradient of its own.

solve.py     the entry: which loop, which adjoint
check.py     do solver, noise, path and times of an SDE fit
given.py     the times of a solve that shall have no host callback
kernel.py    one step of a solver; explicit Runge-Kutta methods unrolled; apart.py keeps stages from being fused
heuristics.py the solver's own estimates of error and stiffness, as outputs
srk.py       stochastic Runge-Kutta methods, unrolled
problem.py   a solve as functions of one example; hoist.py draws out what they close over; which kernel a solver gets
march.py     the adaptive loop over a whole batch, with its bounded record; packing.py keeps that to few arrays
fixed.py     the fixed grid, a scan
collect.py   the primitive that sees the batch
finish.py    events located, ends saved, statistics
buckets.py   batches whose examples need very different numbers of steps
"""

from nde.engine.buckets import map_in_buckets as map_in_buckets
from nde.engine.checks import Call as Call, check_call as check_call
from nde.engine.solve import diffeqsolve as diffeqsolve
