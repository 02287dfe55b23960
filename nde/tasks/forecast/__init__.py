"""`task = "forecast"`: its series, training, scores, figures and predictions, a module each."""

from nde.tasks.forecast.evaluation import ForecastEvaluation as ForecastEvaluation
from nde.tasks.forecast.problem import build_cut as build_cut, Problem as Problem
from nde.tasks.forecast.task import ForecastTask as ForecastTask
