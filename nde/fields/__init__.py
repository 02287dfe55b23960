"""Vector fields: Equinox modules `f(t, y, args)` that act on one state.

A field becomes a term of a differential equation by `diffrax.ODETerm(field)` (a drift) or
`diffrax.ControlTerm(field, path)` (a diffusion). Fields know nothing of solvers or data.
"""

from nde.fields.diffusion import DiagonalDiffusion as DiagonalDiffusion
from nde.fields.linear_mlp import LinearMLPField as LinearMLPField
