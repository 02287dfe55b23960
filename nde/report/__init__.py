"""Cuts, forecasts, scores, baselines and figures: what `nde evaluate` and `nde plot` call."""

from nde.report.baselines import (
    Baseline as Baseline,
    baseline_from_plain as baseline_from_plain,
    baseline_to_plain as baseline_to_plain,
    BASELINES as BASELINES,
)
from nde.report.classes import (
    accuracy_rows as accuracy_rows,
    brier_score as brier_score,
    confusion as confusion,
    log_softmax as log_softmax,
    plot_confusion as plot_confusion,
    plot_seen_series as plot_seen_series,
    SeenSeries as SeenSeries,
)
from nde.report.columns import fitted_table as fitted_table
from nde.report.comparison import (
    compare as compare,
    render as render,
    Row as Row,
    verdict as verdict,
    write_table as write_table,
)
from nde.report.cuts import AbstractCut as AbstractCut, Cut as Cut, Landmark as Landmark, SecondHalf as SecondHalf
from nde.report.density import (
    density_rows as density_rows,
    fit_gaussian as fit_gaussian,
    fit_kde as fit_kde,
    PlaneGrid as PlaneGrid,
    plot_plane as plot_plane,
)
from nde.report.figures import (
    BLUE as BLUE,
    fan_legend as fan_legend,
    FAN_LEVELS as FAN_LEVELS,
    GREY as GREY,
    ORANGE as ORANGE,
    plot_calibration as plot_calibration,
    plot_forecasts as plot_forecasts,
    plot_training as plot_training,
    Story as Story,
)
from nde.report.forecast import (
    AbstractPaths as AbstractPaths,
    baseline_forecast as baseline_forecast,
    Forecast as Forecast,
    path_block as path_block,
    PATHS as PATHS,
    sample_forecast as sample_forecast,
    SERIES as SERIES,
    with_rows as with_rows,
)
from nde.report.generation import (
    bits_per_dimension as bits_per_dimension,
    plot_clouds as plot_clouds,
    plot_images as plot_images,
    sample_distances as sample_distances,
)
from nde.report.individuals import (
    AbstractIndividuals as AbstractIndividuals,
    effects_block as effects_block,
    individual_forecast as individual_forecast,
    IndividualForecast as IndividualForecast,
    locations_block as locations_block,
)
from nde.report.inference import (
    covariance as covariance,
    Criteria as Criteria,
    Curve as Curve,
    Direction as Direction,
    effective_number as effective_number,
    Identifiability as Identifiability,
    identifiability as identifiability,
    Interval as Interval,
    intervals_text as intervals_text,
    laplace_draws as laplace_draws,
    laplace_intervals as laplace_intervals,
    LogDensity as LogDensity,
    maximise as maximise,
    Optimum as Optimum,
    plot_profile as plot_profile,
    Posterior as Posterior,
    Profile as Profile,
    profile as profile,
)
from nde.report.logits import (
    AbstractLogits as AbstractLogits,
    class_logits as class_logits,
    logits_block as logits_block,
)
from nde.report.marks import far_channels as far_channels, forecast_marks as forecast_marks, warning_of as warning_of
from nde.report.points import mode_masses as mode_masses, Moments as Moments, moments as moments
from nde.report.pool import pool_weights as pool_weights, PooledForecast as PooledForecast
from nde.report.population import (
    individual_fits as individual_fits,
    IndividualFits as IndividualFits,
    Individuals as Individuals,
    plot_predictive_check as plot_predictive_check,
    predictive_check as predictive_check,
    PredictiveCheck as PredictiveCheck,
    weighted_residuals as weighted_residuals,
)
from nde.report.samples import crps_of_samples as crps_of_samples, quantiles_of_samples as quantiles_of_samples
from nde.report.scores import (
    AbstractForecast as AbstractForecast,
    coverage as coverage,
    NormalForecast as NormalForecast,
    paired_difference as paired_difference,
    SampleForecast as SampleForecast,
    score as score,
    Scores as Scores,
)
from nde.report.sparse import (
    closed_form as closed_form,
    ClosedForm as ClosedForm,
    extended_bic as extended_bic,
    Stepwise as Stepwise,
    stepwise as stepwise,
    term_form as term_form,
    weak_closed_form as weak_closed_form,
    with_term as with_term,
)
from nde.report.transport import (
    bures_wasserstein as bures_wasserstein,
    DISTANCES as DISTANCES,
    energy_distance as energy_distance,
    gaussian_wasserstein as gaussian_wasserstein,
    sliced_wasserstein as sliced_wasserstein,
    wasserstein as wasserstein,
)
from nde.report.transport_floor import FlooredDistance as FlooredDistance, transport_distance as transport_distance
from nde.report.wording import counted as counted, with_error as with_error
