r"""Closed forms: which few terms of a library make up a rate, $r(x) \approx \sum_j \xi_j \theta_j(x)$, most $\xi$ zero.

`closed_form` reads it off rates that are given at states, such as those that the network of a hybrid adds;
`weak_closed_form` off noisy series, without a network and without their derivatives. Both return a
`nde.report.ClosedForm`: callable, printable, and a start for a refit through the solve.
"""

from nde.report.sparse.fit import closed_form as closed_form
from nde.report.sparse.form import ClosedForm as ClosedForm
from nde.report.sparse.regression import (
    CRITERIA as CRITERIA,
    least_squares as least_squares,
    sparse_supports as sparse_supports,
)
from nde.report.sparse.weak import weak_closed_form as weak_closed_form
