"""What a fitted model has learned, as a closed form; and the model with that form in the learned term's place."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from nde.fields import learned_term, Library, library, LibraryField, StandardField
from nde.models import ObservedODE
from nde.paths import Inputs
from nde.report.sparse.fit import closed_form, Criterion
from nde.report.sparse.form import ClosedForm
from nde.report.sparse.regression import THRESHOLDS


def term_form(  # noqa: PLR0913  (its keywords are the interface)
    models: Sequence[ObservedODE],
    times: Float[Array, "series rows"],
    solutions: Sequence[Float[Array, "series rows state"]],
    *,
    states: Sequence[str],
    make_library: Callable[[Sequence[str]], Library] = library,
    inputs: Inputs | None = None,
    criterion: Criterion = "bic",
    thresholds: Sequence[float] = THRESHOLDS,
    independent: float | None = None,
    most_terms: int | None = None,
) -> ClosedForm:
    r"""The closed form of what models have learned, along their own solutions: of a hybrid the network, else all rates.

    ```python
    >>> import jax, jax.numpy as jnp, nde
    >>> known = nde.fields.logistic(growth=0.8, capacity=2.0)             # stands here for a network
    >>> model = nde.ObservedODE(nde.NeuralODE(lambda t, y, args: known(t, y)), None, nde.GaussianLikelihood(1), (0,))
    >>> times = jnp.linspace(0.0, 5.0, 100)
    >>> solved = model.ode(times, jnp.array([0.1]))
    >>> form = nde.report.term_form([model], times[None], [solved[None]], states=["size"])
    >>> print("; ".join(f"{value:.2f} {name}" for name, value in form.terms("size").items()))
    0.80 size; -0.40 size^2
    >>> refit = nde.report.with_term(model, form)            # it learns and extrapolates like any other
    >>> list(refit.ode.field.parameter_values())
    ['size in size', 'size^2 in size']

    ```

    **Arguments:**

    - `models`: `nde.ObservedODE`s of one kind, such as the members of an ensemble; the form is of all together.
    - `times`: `(series, rows)`, a hundred or so along what was fitted; `solutions`: of each model, `(series, rows,
      state)`, in the coordinates that are solved, as `model.ode` returns them.
    - `states`: the names of the states.
    - `make_library`: names of what the term sees, to a `nde.fields.Library` of it, in the units of the data.
    - `inputs`: with a leading axis of series, where something is given to them.
    - `criterion`, `thresholds`, `independent`, `most_terms`: as of `nde.report.closed_form`.

    **Returns:** a `nde.report.ClosedForm`, whose `outputs` are the states that the term acts on. Where states are
    positive and solved by their logarithms, rates are those of the logarithms, the rates of growth; what the library
    sees are the states themselves.

    **Limits:** a network is not the truth: its coefficients are biased by whatever its penalties and its training leave
    out, and their errors say how well the form describes the network. Refit them: `nde.report.stepwise`.
    """
    term = learned_term(models[0].ode.field)
    sees = [states[i] for i in _indices(term.inputs, states)] + [name for name, _, _ in term.given]
    acts = [states[i] for i in _indices(term.states, states)]
    samples = [_samples(model, times, ys, inputs) for model, ys in zip(models, solutions, strict=True)]
    seen, rates = zip(*samples, strict=True)
    return closed_form(
        make_library(sees), np.concatenate(seen), np.concatenate(rates), outputs=acts,
        criterion=criterion, thresholds=thresholds, independent=independent, most_terms=most_terms,
    )  # fmt: skip


def with_term(
    model: ObservedODE, form: ClosedForm, *, active: Bool[np.ndarray, "candidates outputs"] | None = None
) -> ObservedODE:
    """The model with a closed form in the place of what it has learned, its coefficients named parameters.

    **Arguments:** `form`: as `nde.report.term_form` makes it of this model; `active`: which candidates are parameters,
    those of the form if `None`; of others than these the coefficients start from zero.
    """
    term = learned_term(model.ode.field)
    sees = _indices(term.inputs, form.library.inputs[: len(form.library.inputs) - len(term.given)])
    location, scale = _units(model, sees)
    found = form.library.of_logarithms(len(sees)) if model.positive else form.library
    location = np.concatenate([location, [m for _, m, _ in term.given]])
    scale = np.concatenate([scale, [s for _, _, s in term.given]])
    own = LibraryField(found, form.coefficients, active=form.active if active is None else active, outputs=form.outputs)
    acted = _units(model, _indices(term.states, form.outputs))[1]
    # in standardised coordinates: y = m + s z in, rates over their scale out
    residual = StandardField(
        own, location=(-location / scale).tolist(), scale=(1 / scale).tolist(), rate=(1 / acted).tolist()
    )
    return eqx.tree_at(lambda m: m.ode.field, model, term.put(residual))


def _samples(model: ObservedODE, times: Any, ys: Any, inputs: Inputs | None) -> tuple[np.ndarray, np.ndarray]:
    """What the term of a model sees along its solution, and its rates, in the units of the data."""
    term = learned_term(model.ode.field)

    def at(t, y, series):
        args = None if inputs is None else jax.tree.map(lambda x: x[series], inputs).at(t)
        given = [] if args is None else [args[name] for name, _, _ in term.given]
        return term.rates(t, y, args), jnp.asarray(given, y.dtype)

    every = jax.vmap(lambda ts, zs, one: jax.vmap(lambda t, z: at(t, z, one))(ts, zs))
    rates, given = every(jnp.asarray(times), jnp.asarray(ys), jnp.arange(len(times)))
    places = range(ys.shape[-1])
    seen = model.own_units(jnp.asarray(ys))[..., np.array(_indices(term.inputs, places), int)]
    scale = _units(model, _indices(term.states, places))[1]
    return np.concatenate([seen, given], axis=-1).astype(np.float64), np.asarray(rates, np.float64) * scale


def _units(model: ObservedODE, states: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Location and scale of the coordinates in which some states are solved."""
    if model.location is None or model.scale is None:
        return np.zeros(len(states)), np.ones(len(states))
    return np.array(model.location)[states], np.array(model.scale)[states]


def _indices(chosen: tuple[int, ...] | None, of: Sequence[Any]) -> list[int]:
    return list(range(len(of))) if chosen is None else list(chosen)
