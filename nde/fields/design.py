"""A known right-hand side whose parameters are functions of what is given of a series."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from nde.fields.known import KnownField


class DesignField(eqx.Module):
    r"""A known system with coefficients that a network makes of a design: $f(t, y;\, p(c))$.

    With $r_i$ the coordinate without bounds of parameter $i$ (`nde.fields.Parameter`) and $z$ the standardised design,
    $p_i(c) = \mathrm{value}_i\bigl(r_i + n_i(z)\bigr)$: whatever the network says, a coefficient keeps its bounds, and
    one with `log` is changed by a factor. A network that is zero leaves the known system as it is.

    ```python
    field = DesignField(
        nde.fields.ignition(), nde.MLPField(2, 16, 1, out_size=2, key=key),
        coefficients=("a", "e"), given={"pressure": (1.0, 0.5), "richness": (1.0, 0.2)},
    )
    field(t, y, {"pressure": 1.2, "richness": 0.9})
    ```

    **Arguments of the constructor:**

    - `known`: a `nde.fields.KnownField`.
    - `network`: a field `n(t, z, args)` that returns a number for each of `coefficients`, as `nde.fields.MLPField`.
    - `coefficients`: names of parameters that are no arrays and not fixed.
    - `given`: names of values in `args`, a mapping as of `nde.paths.Inputs`, each with the mean and the standard
      deviation by which it is standardised.

    **Call:** `field(t, y, args)`; returns the rates. What varies along a series varies the coefficients.

    **Raises:** `ValueError` for a coefficient that is no parameter, fixed or an array, or named twice, and without a
    design; and, when called, for `args` that lack a name.

    **Source:** Qian, Wang, Douasbin and Darve, *Physics-based parameterized neural ordinary differential equations:
    prediction of laser ignition in a rocket combustor*, 2023, arXiv 2302.08629.
    """

    known: KnownField
    network: Callable[..., Any]
    coefficients: tuple[str, ...] = eqx.field(static=True)
    given: tuple[tuple[str, float, float], ...] = eqx.field(static=True)

    def __init__(
        self,
        known: KnownField,
        network: Callable[..., Any],
        *,
        coefficients: Sequence[str],
        given: Mapping[str, tuple[float, float]],
    ):
        free = [name for name, each in known.parameters.items() if each.raw is not None and each.raw.ndim == 0]
        for name in coefficients:
            if name not in free or list(coefficients).count(name) > 1:
                raise ValueError(
                    f"DesignField: '{name}' is no coefficient that a network can make, once; those are "
                    f"{', '.join(free) or 'none'}."
                )
        if not coefficients or not given:
            raise ValueError("DesignField needs a coefficient or more, and what is given of a series.")
        self.known, self.network, self.coefficients = known, network, tuple(coefficients)
        self.given = tuple((name, float(mean), float(scale)) for name, (mean, scale) in given.items())

    @property
    def state_names(self) -> tuple[str, ...] | None:
        """The names of the states, if the known system has any."""
        return self.known.state_names

    def parameter_values(self) -> dict[str, Float[Array, "..."]]:
        """The value of each parameter where the network is zero, by name, in its own units."""
        return self.known.parameter_values()

    def parameter_units(self) -> dict[str, str]:
        """The units of the parameters that have one."""
        return self.known.parameter_units()

    def coefficients_of(self, design: Mapping[str, Any], t: Any = 0.0) -> dict[str, Float[Array, ""]]:
        """The coefficients of a design, by name, in their own units."""
        missing = [name for name, _, _ in self.given if name not in design]
        if missing:
            raise ValueError(
                f"DesignField needs '{missing[0]}' in args, but is given {', '.join(design) or 'nothing'}."
            )
        raws = {name: jnp.asarray(self.known.parameters[name].raw) for name in self.coefficients}
        dtype = jnp.result_type(*raws.values())  # of the coefficients, whatever a table has
        standard = jnp.stack([(jnp.asarray(design[name], dtype) - mean) / scale for name, mean, scale in self.given])
        found = {}
        for (name, raw), move in zip(raws.items(), self.network(t, standard, None), strict=True):
            moved = eqx.tree_at(lambda p: p.raw, self.known.parameters[name], raw + move.astype(raw.dtype))
            found[name] = moved.value
        return found

    def __call__(self, t: Any, y: Any, args: Any = None) -> Any:
        given = args if isinstance(args, Mapping) else {}
        return self.known(t, y, {**given, **self.coefficients_of(given, t)})
