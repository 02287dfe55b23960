"""Gradients in the times at which a solve is told to stop or to jump: against central finite differences."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
import pytest
from diffrax import ODETerm, SaveAt

import nde

PID = diffrax.PIDController(rtol=1e-9, atol=1e-10)
TAUS, RATE, ENDS = jnp.array([0.6, 0.35]), jnp.array(0.7), jnp.array([0.0, 1.0])
ADJOINTS = {
    "checkpoint": (nde.CheckpointAdjoint(), diffrax.Tsit5()),
    "a short record": (nde.CheckpointAdjoint(checkpoints=4), diffrax.Tsit5()),
    "reversible": (nde.ReversibleAdjoint(), nde.Reversible(diffrax.Tsit5())),
}


def field(t, y, args):
    """An input that switches at one time, and a rate that doubles at another."""
    rate, taus = args
    return jnp.where(t < taus[1], 0.3, 1.0) * jnp.sin(3 * t) - rate * y * jnp.where(t < taus[0], 1.0, 2.0)


def clipped(**times):
    return diffrax.ClipStepSizeController(PID, **times)


def differences(f, *inputs, h=1e-4):
    """The gradient of a scalar by central differences, in the form of `jax.grad` by all arguments."""

    def one(k):
        flat = np.ravel(inputs[k])

        def at(i, by):
            moved = jnp.asarray(flat + by * (np.arange(flat.size) == i)).reshape(inputs[k].shape)
            return f(*inputs[:k], moved, *inputs[k + 1 :])

        return np.reshape([(at(i, h) - at(i, -h)) / (2 * h) for i in range(flat.size)], inputs[k].shape)

    return tuple(one(k) for k in range(len(inputs)))


def check(f, *inputs, rtol=2e-6, grad=None):
    f = jax.jit(f)
    found = (grad or jax.jit(jax.grad(f, tuple(range(len(inputs))))))(*inputs)
    for a, b in zip(found, differences(f, *inputs), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)
    return found


@pytest.mark.parametrize("name", ADJOINTS)
def test_jumps_and_stops_and_what_is_saved_between_them(name):
    adjoint, solver = ADJOINTS[name]
    weights = jnp.array([0.5, -1.0, 2.0, 0.7, 1.0])

    @jax.jit
    def loss(taus, rate, ends):
        ts = ends[0] + (ends[1] - ends[0]) * jnp.array([0.0, 0.2, 0.8, 0.9])
        saveat = SaveAt(t1=True, ts=ts, fn=lambda t, y, args: y * jnp.cos(t))
        ys = nde.diffeqsolve(
            ODETerm(field),
            solver,
            *ends,
            None,
            1.0,
            (rate, taus),
            saveat=saveat,
            adjoint=adjoint,
            stepsize_controller=clipped(jump_ts=taus, step_ts=jnp.array([0.2, 0.7])),
            max_steps=512,
        ).ys
        return weights @ ys

    grad = jax.jit(jax.grad(loss, (0, 1, 2)))
    check(loss, TAUS, RATE, ENDS, grad=grad)
    check(loss, TAUS, RATE, ENDS[::-1], grad=grad)
    check(loss, jnp.array([1.4, 0.35]), RATE, ENDS, grad=grad)  # one beyond the end


@jax.jit
def at_end(taus, ends=ENDS, rate=RATE):
    args, controller = (rate, taus), clipped(jump_ts=taus)
    solution = nde.diffeqsolve(
        ODETerm(field), diffrax.Tsit5(), *ends, None, 1.0, args, stepsize_controller=controller, max_steps=256
    )
    return solution.ys[-1]


grad_at_end = jax.jit(jax.grad(at_end, (0, 1)))


def test_an_input_that_switches_on_at_a_time():
    """y(1) is twice the time left after the switch: its derivative by the time is -2, where the controller knows it."""

    def end(jump, scale, frozen):
        controller = diffrax.PIDController(rtol=1e-3, atol=1e-4)
        times = jax.lax.stop_gradient(jump) if frozen else jump
        controller = diffrax.ClipStepSizeController(controller, jump_ts=times[None])
        term = ODETerm(lambda t, y, a: scale * jnp.where(t < jump, 0.0, 1.0) + 0 * y)
        return nde.diffeqsolve(term, diffrax.Heun(), 0.0, 1.0, 0.1, 0.0, stepsize_controller=controller).ys[-1]

    np.testing.assert_allclose(jax.grad(end, (0, 1))(jnp.array(0.4), 2.0, False), (-2.0, 0.6), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(end, (0, 1))(jnp.array(0.4), 2.0, True), (0.0, 0.6), rtol=1e-6)


def test_two_jumps_at_one_time_share_its_gradient():
    taus = jnp.array([0.5, 0.5])
    both, _ = grad_at_end(taus, ENDS)
    np.testing.assert_allclose(both[0], both[1])
    (sum_of_both,) = differences(lambda t: at_end(t + taus, ENDS), jnp.array(0.0))
    np.testing.assert_allclose(jnp.sum(both), sum_of_both, rtol=1e-6)


def test_a_jump_at_an_end_leaves_its_gradient_to_the_end():
    """The field before the jump is what t1 reaches, the field after it what t0 leaves."""
    for where, slope in ((1.0, 0), (0.0, 1)):
        taus = jnp.array([where, 0.35])
        of_taus, of_ends = grad_at_end(taus, ENDS)
        y1 = at_end(taus, ENDS)
        np.testing.assert_allclose(of_taus[0], 0, atol=1e-7)
        np.testing.assert_allclose(of_ends[1], jnp.sin(3.0) - RATE * y1 * (1 + slope), rtol=1e-7)


def test_jumps_over_a_batch():
    taus = jnp.array([[0.5, 0.2], [0.3, 0.9], [0.4, 0.4]])
    single = jnp.stack([grad_at_end(x, ENDS)[0] for x in taus])

    @jax.jit
    def grads(taus):
        one_by_one = jax.vmap(lambda x: grad_at_end(x, ENDS)[0])(taus)
        together = jax.grad(lambda taus: jnp.sum(jax.vmap(at_end)(taus)))(taus)
        shared = jax.grad(lambda x: jnp.sum(jax.vmap(lambda rate: at_end(x, ENDS, rate))(jnp.stack([RATE] * 3))))
        return one_by_one, together, shared(taus[0])

    one_by_one, together, shared = grads(taus)
    np.testing.assert_allclose(one_by_one, single, rtol=1e-9)
    np.testing.assert_allclose(together, single, rtol=1e-9)
    np.testing.assert_allclose(shared, 3 * single[0], rtol=1e-9)


def test_the_continuous_adjoint_refuses_the_times_of_jumps():
    def end(taus):
        solve = nde.diffeqsolve(
            ODETerm(field),
            diffrax.Tsit5(),
            *ENDS,
            None,
            1.0,
            (RATE, TAUS),
            stepsize_controller=clipped(jump_ts=taus),
            adjoint=nde.ContinuousAdjoint(),
        )
        return solve.ys[-1]

    with pytest.raises(ValueError, match="no gradient in the times at which a step-size controller is told to stop"):
        jax.grad(end)(TAUS)


def rate_of_time(t, y, rate):
    return 1 - rate * y * t**2


@pytest.mark.parametrize("adjoint, solver", list(ADJOINTS.values())[1:], ids=list(ADJOINTS)[1:])
def test_constant_steps_and_steps_to_given_times(adjoint, solver):
    """The gradient of the very steps taken, that change by an input in the loop as in the scan."""

    def solve(t0, t1, dt0, controller, event=None):
        term, rate = ODETerm(rate_of_time), RATE
        times = {"stepsize_controller": controller, "event": event, "adjoint": adjoint}
        return nde.diffeqsolve(term, solver, t0, t1, dt0, 1.0, rate, **times, max_steps=64).ys[-1]

    def constant(ends, dt0):
        return solve(*ends, dt0, diffrax.ConstantStepSize())

    check(constant, ENDS, jnp.array(0.23))
    event = diffrax.Event(lambda t, y, args, **_: t > 0.75) if isinstance(adjoint, nde.CheckpointAdjoint) else None

    def to_times(inner, ends):
        ts = jnp.concatenate([ends[:1], inner, ends[1:]])
        return solve(ts[0], ts[-1], None, diffrax.StepTo(ts), event)

    check(to_times, jnp.array([0.1, 0.4, 0.6, 0.8]), ENDS)


def test_constant_steps_without_an_end():
    def until_event(t0, dt0):
        event = diffrax.Event(lambda t, y, args, **_: t > 0.75)
        solution = nde.diffeqsolve(ODETerm(rate_of_time), diffrax.Heun(), t0, jnp.inf, dt0, 1.0, RATE, event=event)
        return solution.ys[-1] + solution.ts[-1]

    check(until_event, jnp.array(0.1), jnp.array(0.23))


@pytest.mark.parametrize("solver, told", [(diffrax.Kvaerno4(), "jump_ts"), (diffrax.Tsit5(), "step_ts")])
def test_stages_on_the_other_side_of_a_jump(solver, told):
    """Kvaerno 4 looks beyond its step's end, and a step to `step_ts` ends on the jump: the last one before is tiny."""

    def end(taus):
        controller, args = clipped(**{told: taus}), (RATE, taus)
        options = {"stepsize_controller": controller, "max_steps": 512}
        return nde.diffeqsolve(ODETerm(field), solver, *ENDS, None, 1.0, args, **options).ys[-1]

    check(end, TAUS)


def test_an_event_after_jumps_and_dense_output_before_it():
    root = optimistix.Newton(1e-10, 1e-10)

    def loss(taus, rate, ends):
        event = diffrax.Event(lambda t, y, args, **_: y - 0.62, root)
        controller = diffrax.ClipStepSizeController(clipped(jump_ts=taus[:1]), jump_ts=taus[1:])  # one in another
        options = {"stepsize_controller": controller, "saveat": SaveAt(t1=True, dense=True), "max_steps": 256}
        solution = nde.diffeqsolve(
            ODETerm(field), diffrax.Tsit5(), *ends, None, 1.0, (rate, taus), event=event, **options
        )
        inside = jax.vmap(solution.evaluate)(jnp.array([0.002, 0.1, 0.5, 0.7]))
        return solution.ts[-1] + jnp.array([1.0, 2.0, 3.0, -1.0]) @ inside

    check(loss, TAUS, RATE, ENDS)


class Halting(diffrax.AbstractAdaptiveStepSizeController):
    """A controller of one's own, that stops at a time."""

    inner: diffrax.PIDController
    at: jax.Array
    rtol, atol, norm = 1e-5, 1e-7, None

    def wrap(self, direction):
        return Halting(self.inner.wrap(direction), self.at * direction)

    def _clip(self, t, tnext):
        return jnp.where((t < self.at) & (tnext > self.at), self.at, tnext)

    def init(self, terms, t0, *rest):
        tnext, state = self.inner.init(terms, t0, *rest)
        return self._clip(t0, tnext), state

    def adapt_step_size(self, *given):
        keep, t, tnext, *rest = self.inner.adapt_step_size(*given)
        return keep, t, self._clip(t, tnext), *rest

    def stop_times(self, controller_state):
        return self.at


def test_a_controller_of_ones_own_says_where_it_stops():
    def saved_there(at):
        controller = Halting(diffrax.PIDController(rtol=1e-5, atol=1e-7), at)
        options = {"stepsize_controller": controller, "saveat": SaveAt(steps=True), "max_steps": 32}
        solution = nde.diffeqsolve(ODETerm(lambda t, y, args: -y), diffrax.Tsit5(), *ENDS, None, 1.0, **options)
        return jnp.sum(jnp.where(solution.ts == at, solution.ys, 0))

    np.testing.assert_allclose(jax.grad(saved_there)(jnp.array(0.4)), -np.exp(-0.4), rtol=1e-4)


@pytest.mark.parametrize("name", ["linear", "cubic"])
def test_a_paths_own_times_and_values(name):
    """The path bends at its times: right where the controller stops there, refused where it does not know of them."""
    ts, ys = jnp.array([0.0, 0.3, 0.55, 1.0]), jnp.array([[0.0, 1.0], [0.3, 0.2], [0.5, -0.4], [1.0, 0.8]])

    def end(ts, ys, told=True):
        if name == "linear":
            path = diffrax.LinearInterpolation(ts, ys)
        else:
            path = diffrax.CubicInterpolation(ts, diffrax.backward_hermite_coefficients(ts, ys))
        field = diffrax.ControlTerm(lambda t, y, args: jnp.stack([jnp.sin(y), jnp.cos(2 * y)], -1), path)
        options = {"stepsize_controller": clipped(jump_ts=ts) if told else PID, "max_steps": 512}
        y0 = jnp.array([0.3, 0.7])
        return nde.diffeqsolve(field.to_ode(), diffrax.Tsit5(), ts[0], ts[-1], None, y0, **options).ys[-1].sum()

    check(end, ts, ys)
    with pytest.raises(ValueError, match="no gradient in the times ts of an interpolated path"):
        jax.grad(end)(ts, ys, False)
