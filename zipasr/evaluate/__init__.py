"""Evaluation of a recognizer: error rates, search settings tuned on a dev set, and calibration of its confidence."""

from zipasr.evaluate.calibration import CalibrationReport, calibrate, save_calibration
from zipasr.evaluate.compare import compare_searches, explain, keep_ngram, save_default_search
from zipasr.evaluate.keywords import KeywordReport, KeywordResult, evaluate_keywords, together
from zipasr.evaluate.rates import (
    ErrorRates,
    Errors,
    EvaluationReport,
    ReferenceUtterance,
    UtteranceResult,
    count_errors,
    count_text_errors,
    error_rates,
    evaluate,
    read_cuts,
    readable_groups,
)
from zipasr.evaluate.rejection import TunedRejection, tune_rejection, without_long
from zipasr.evaluate.scoring import SCORING
from zipasr.evaluate.style import describe_style
from zipasr.evaluate.tuning import TunedSetting, default_grid, parse_grid, tune

__all__ = [
    "SCORING",
    "CalibrationReport",
    "ErrorRates",
    "Errors",
    "EvaluationReport",
    "KeywordReport",
    "KeywordResult",
    "ReferenceUtterance",
    "TunedRejection",
    "TunedSetting",
    "UtteranceResult",
    "calibrate",
    "compare_searches",
    "count_errors",
    "count_text_errors",
    "default_grid",
    "describe_style",
    "error_rates",
    "evaluate",
    "evaluate_keywords",
    "explain",
    "keep_ngram",
    "parse_grid",
    "read_cuts",
    "readable_groups",
    "save_calibration",
    "save_default_search",
    "together",
    "tune",
    "tune_rejection",
    "without_long",
]
