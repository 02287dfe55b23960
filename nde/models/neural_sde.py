"""A neural SDE: a drift, a diffusion, and the numerics that solve them."""

from collections.abc import Callable
from typing import Any, Unpack

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, PRNGKeyArray, PyTree

from nde.fields import check_field
from nde.models.checks import check_times_and_state, refuse
from nde.models.numerics import AbstractSolvingModel, Keywords, Numerics, numerics_of, Solved
from nde.paths import BrownianGrid, VirtualBrownianTree
from nde.regularise import AbstractRegulariser, need_key
from nde.solvers import check_noise
from nde.terms import diffusion_term, unwrap_solver


class NeuralSDE(AbstractSolvingModel):
    r"""A sample of $dy = f(t, y)\,dt + g(t, y)\,dW$ at given times.

    The solver decides how the noise is read, and that changes the law unless `g` is constant: Itô with
    `diffrax.Euler` (Euler–Maruyama) or `diffrax.ItoMilstein`; Stratonovich with `diffrax.Heun`, `diffrax.EulerHeun`,
    `diffrax.ReversibleHeun`, `diffrax.SPaRK` and others. Hence there is no default.

    It acts on one series and draws one sample; use `jax.vmap` over series and over keys. The same key gives the same
    Brownian path between the same ends, whatever the solver's steps, as long as `tol` is the same.

    ```python
    >>> import diffrax, jax, jax.numpy as jnp, nde
    >>> model = nde.NeuralSDE(lambda t, y, args: -y, lambda t, y, args: 0.1 * y, solver=diffrax.Euler(), dt0=0.25)
    >>> model(jnp.array([0, 1, 2]), jnp.ones(3), key=jax.random.key(0)).shape
    (3, 3)

    ```

    **Arguments of the constructor:**

    - `drift`: any callable `f(t, y, args)` that returns what `y` is.
    - `diffusion`: any callable `g(t, y, args)`. Either it returns what `y` is: diagonal noise, each entry of the state
      with its own Brownian motion. Or each leaf of shape `(*shape, noise)` for a state of shape `shape`: general noise,
      a matrix times `noise` Brownian motions (for a pytree, each leaf has its own).
    - `numerics`: how it is solved, a `nde.Numerics`; or its members by keyword, of which there must be a `solver` for
      SDEs and a `dt0`, the step, in units of time. The `controller` is one of constant steps unless given; an adaptive
      one needs a solver with an error estimate other than Euler's, and `dt0` is its first step.
    - `tol`: the length of time below which the Brownian motion is not resolved; `dt0 / 2` if `None`. Set it below the
      least step where the controller is adaptive.
    - `grid`: `(start, end, steps)`, numbers: the Brownian motion is then that of a `nde.paths.BrownianGrid`,
      cheaper than the tree, and one for all series within `[start, end]`, whatever their first and last times. Every
      series begins and ends at one of its points, and `dt0` is its step or a multiple; `tol` has no part in it. `None`
      for a tree. The same key gives the same path with and without `jit`, but another than the tree's. Static.

    **Call:** `model(ts, y0, args=None, key=key)` with `ts` of shape `(times,)`, sorted upwards, `y0` the state at
    `ts[0]`. Returns the states at `ts`, the first among them: `y0`'s structure with a leading axis of times.
    `model.solve(ts, y0, args, regulariser=regulariser, key=key)` gives these states, of the same sample, and a penalty.

    **Raises:** `ValueError` without a key, if `ts` holds fewer than two times, if the drift or the diffusion does not
    fit `y0`, or if the solver is not made for SDEs or not for the kind of noise that the diffusion declares
    (`nde.solvers.check_noise`; one that declares none counts as general); an error at run time if `ts` does not
    increase, leaves the grid, or the solve fails. With a `grid`, `ValueError` for a controller that chooses steps.

    **Limits:** between steps the state is interpolated linearly, so that its spread is too small there by up to a
    quarter of a step's: let `ts` lie on the grid of steps, or `dt0` well below the time between them. Without a `grid`,
    the path is a `nde.paths.VirtualBrownianTree`, drawn anew from the key at each query, at a cost that grows with
    `log((ts[-1] - ts[0]) / tol)`.

    **Source:** Tzen & Raginsky 2019, arXiv 1905.09883; Li, Wong, Chen, Duvenaud 2020, arXiv 2001.01328; the tree,
    Jelinčič, Foster, Kidger 2024, arXiv 2405.06464.
    """

    drift: Callable[..., Any]
    diffusion: Callable[..., Any]
    numerics: Numerics
    tol: float | None
    grid: tuple[float, float, int] | None = eqx.field(static=True)

    def __init__(
        self,
        drift: Callable[..., Any],
        diffusion: Callable[..., Any],
        *,
        numerics: Numerics | None = None,
        tol: float | None = None,
        grid: tuple[float, float, int] | None = None,
        **keywords: Unpack[Keywords],
    ):
        if numerics is None and any(keywords.get(name) is None for name in ("solver", "dt0")):
            raise TypeError(
                "NeuralSDE has no default solver and step: give solver=…, of SDEs, and dt0=…, or numerics=…."
            )
        default = Numerics(controller=diffrax.ConstantStepSize())
        self.drift, self.diffusion, self.tol, self.grid = drift, diffusion, tol, grid
        self.numerics = numerics_of("NeuralSDE", default, numerics, **keywords)

    def __check_init__(self):
        if self.dt0 is None and (self.tol is None or self.grid is not None):
            raise ValueError(
                "NeuralSDE draws its noise by the step, but got numerics with dt0=None: give them a dt0, or the model, "
                "without a grid, a tol."
            )
        if self.grid is None:
            return
        if len(self.grid) != 3 or isinstance(self.controller, diffrax.AbstractAdaptiveStepSizeController):
            raise ValueError(
                "NeuralSDE needs a grid (start, end, steps) and with it a controller of constant steps, but got "
                f"grid={self.grid} and {type(self.controller).__name__}."
            )

    def __call__(
        self, ts: ArrayLike, y0: PyTree[ArrayLike], args: PyTree[Any] = None, *, key: PRNGKeyArray | None = None
    ) -> PyTree[Array]:
        return self.solve(ts, y0, args, key=key).ys

    def solve(
        self,
        ts: ArrayLike,
        y0: PyTree[ArrayLike],
        args: PyTree[Any] = None,
        *,
        regulariser: AbstractRegulariser | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Solved:
        """The sample at `ts`, and what the regulariser makes of the solve: see `nde.regularise`."""
        key = need_key(key, "NeuralSDE draws noise", "call model(ts, y0, key=jax.random.key(0))")
        ts, y0 = check_times_and_state("NeuralSDE", ts, y0, (self.drift, self.diffusion))
        ts = refuse(ts, ~(ts[0] < ts[-1]), "NeuralSDE needs times ts that increase, but ts[-1] <= ts[0].")
        check_noise(self.diffusion, self.solver)
        check_field(self.drift, ts[0], y0, args)
        diagonal, noise = _noise_like(y0, eqx.filter_eval_shape(self.diffusion, ts[0], y0, args))
        ts, path = self._path(ts, noise, key)
        noise_term = diffusion_term(self.diffusion, path, diagonal=diagonal)
        terms = diffrax.MultiTerm(diffrax.ODETerm(self.drift), noise_term)
        saveat, other = diffrax.SaveAt(ts=ts), jax.random.fold_in(key, 1)
        return self.numerics.solve(terms, ts[0], ts[-1], y0, args, saveat=saveat, regulariser=regulariser, key=other)

    def _path(self, ts: Array, noise: PyTree[jax.ShapeDtypeStruct], key: PRNGKeyArray) -> tuple[Array, Any]:
        """The times, checked, and the Brownian motion."""
        area, dt0 = _levy_area(self.solver), self.dt0
        assert dt0 is not None
        if self.grid is None:
            tol = dt0 / 2 if self.tol is None else self.tol
            return ts, VirtualBrownianTree(ts[0], ts[-1], tol, noise, key, area)
        path = BrownianGrid(*self.grid, noise, key, levy_area=area)
        width = (path.t1 - path.t0) / path.num_steps
        whole = jnp.round(dt0 / width)
        off = (whole < 1) | (jnp.abs(dt0 / width - whole) > 1e-3)
        return refuse(ts, off | ~jnp.all(path.knows(ts[jnp.array([0, -1])])), _off_grid(self.grid)), path


def _off_grid(grid: tuple[float, float, int]) -> str:
    return (
        "NeuralSDE needs series that begin and end at points of its grid, and a dt0 that is its step or a multiple: "
        f"{grid[2]} steps from {grid[0]} to {grid[1]}, each of {(grid[1] - grid[0]) / grid[2]}."
    )


def _noise_like(y: PyTree[Array], sigma: PyTree[Any]) -> tuple[bool, PyTree[jax.ShapeDtypeStruct]]:
    """Whether a diffusion's output `sigma` is diagonal for the state `y`, and what a Brownian increment looks like."""
    state, structure = jax.tree.flatten(y)
    factors = jax.tree.leaves(sigma)
    if jax.tree.structure(sigma) == structure:
        if all(s.shape == x.shape for x, s in zip(state, factors, strict=True)):
            return True, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), y)
        if all(s.ndim == x.ndim + 1 and s.shape[:-1] == x.shape for x, s in zip(state, factors, strict=True)):
            return False, jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(s.shape[-1:], x.dtype), y, sigma)
    raise ValueError(
        "NeuralSDE needs a diffusion whose output has the state's structure, and in each leaf the state's shape "
        "(diagonal noise) or the state's shape and one more axis (general noise), but the state is "
        f"{eqx.tree_pformat(y)} and the diffusion's output {eqx.tree_pformat(sigma)}."
    )


def _levy_area(solver: diffrax.AbstractSolver) -> Any:
    """The least that the Brownian path must know for the solver."""
    solver, _ = unwrap_solver(solver)
    needed = getattr(solver, "minimal_levy_area", diffrax.BrownianIncrement)
    known = (diffrax.BrownianIncrement, diffrax.SpaceTimeLevyArea, diffrax.SpaceTimeTimeLevyArea)
    return next(area for area in known if issubclass(area, needed))
