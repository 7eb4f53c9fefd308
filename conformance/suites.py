"""The tests that are run: whose they are, and which of them the short form takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Suite(NamedTuple):
    """Test modules that run in one process, with the same place for our backend."""

    modules: tuple[str, ...]
    #: What the short form runs: names of tests, as in `skips.Skip`, by module.
    short: Mapping[str, tuple[str, ...]]
    #: Whether our backend is joblib's default. It always is the one named "dask".
    by_default: bool = False
    #: Whether each test runs inside of ``parallel_config``: then our backend also gets
    #: the calls that prefer threads.
    by_config: bool = False


SUITES = {
    "joblib, as dask": Suite(
        ("joblib.test.test_dask",),
        {"joblib.test.test_dask": ("test_simple",)},
    ),
    "joblib, among its backends": Suite(
        ("joblib.test.test_parallel",),
        {"joblib.test.test_parallel": ("test_simple_parallel[2-*-dask]",)},
        by_default=True,
    ),
    "scikit-learn, by default": Suite(
        (
            "sklearn.utils.tests.test_parallel",
            "sklearn.model_selection.tests.test_search",
            "sklearn.model_selection.tests.test_validation",
            "sklearn.ensemble.tests.test_forest",
            "sklearn.ensemble.tests.test_bagging",
            "sklearn.ensemble.tests.test_voting",
            "sklearn.ensemble.tests.test_stacking",
            "sklearn.ensemble.tests.test_iforest",
            "sklearn.tests.test_multioutput",
            "sklearn.tests.test_multiclass",
            "sklearn.tests.test_pipeline",
            "sklearn.tests.test_calibration",
            "sklearn.compose.tests.test_column_transformer",
            "sklearn.linear_model.tests.test_logistic",
            "sklearn.linear_model.tests.test_coordinate_descent",
            "sklearn.feature_selection.tests.test_rfe",
            "sklearn.feature_selection.tests.test_mutual_info",
            "sklearn.inspection.tests.test_permutation_importance",
            "sklearn.covariance.tests.test_graphical_lasso",
            "sklearn.cluster.tests.test_mean_shift",
        ),
        {"sklearn.utils.tests.test_parallel": ("*",)},
        by_default=True,
        by_config=True,
    ),
}
