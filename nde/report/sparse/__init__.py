r"""Closed forms: which few terms of a library make up a rate, $r(x) \approx \sum_j \xi_j \theta_j(x)$, most $\xi$ zero.

`closed_form` reads it off rates that are given at states, such as those that the network of a hybrid adds;
`weak_closed_form` off noisy series, without a network and without their derivatives. Both return a
`nde.report.ClosedForm`: callable, printable, and a start for a refit through the solve. Of fitted models `term_form`
reads it off what they have learned, `with_term` puts it in its place, and `stepwise` lets the data choose its terms and
coefficients.
"""

from nde.report.sparse.choice import extended_bic as extended_bic, Stepwise as Stepwise, stepwise as stepwise
from nde.report.sparse.fit import closed_form as closed_form
from nde.report.sparse.form import ClosedForm as ClosedForm
from nde.report.sparse.regression import (
    CRITERIA as CRITERIA,
    least_squares as least_squares,
    sparse_supports as sparse_supports,
)
from nde.report.sparse.term import term_form as term_form, with_term as with_term
from nde.report.sparse.weak import weak_closed_form as weak_closed_form
