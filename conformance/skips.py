"""The tests that do not apply to our backend, each with its reason.

A defect of ours is no reason: such a test is to fail. A pattern that matches no test is
an error. ``run.py --skipped`` tells which of these tests pass by now, and with
``--control`` which of scikit-learn's pass with joblib's loky and two jobs: none should,
or it is ours that differs.
"""

from __future__ import annotations

from typing import NamedTuple


class Skip(NamedTuple):
    """Tests of a module that do not apply, for the same reason."""

    module: str
    #: Names with their parameters; ``*`` stands for any text.
    tests: tuple[str, ...]
    reason: str


#: The releases that these are for; older ones may lack tests.
RELEASES = {"joblib": (1, 6), "sklearn": (1, 9)}

_SCATTER_EVENTS = (
    "Counts the receive-from-scatter events of the workers: joblib's dask backend brings "
    "arrays there with Client.scatter, ours does not use it."
)
_BATCHING = (
    "Reads the private state of joblib's AutoBatchingMixin: ours sizes batches by a "
    "policy of its own."
)
_ALL_BY_DEFAULT = (
    "Asserts that a call without n_jobs has one job where no parallel_config names a "
    "backend, which is so for the backends that joblib may have as its default. As that "
    "default, ours, like joblib's dask backend, takes the whole cluster."
)

# scikit-learn's calls have one job unless the test says n_jobs, with joblib's own
# backends: the tasks then run in the test's process, in the test's thread. With ours, or
# with loky and two jobs, they do not.
_RECORDS = (
    "Looks in its own process for what the tasks have recorded, or expects to find the "
    "very objects there that they were given: they ran in other processes, on copies."
)
_WARNINGS = "Expects in its own process the warnings of tasks that ran in other ones."
_OUTPUT = "Captures in its own process what tasks printed that ran in other ones."

SKIPS = (
    Skip(
        "joblib.test.test_dask",
        ("test_dask_backend_uses_autobatching",),
        _BATCHING,
    ),
    Skip(
        "joblib.test.test_dask",
        ("test_no_undesired_distributed_cache_hit", "test_auto_scatter"),
        _SCATTER_EVENTS,
    ),
    Skip(
        "joblib.test.test_dask",
        ("test_manual_scatter",),
        "Asserts that a scattered object is pickled as often as Client.scatter does, 3 "
        "times: ours pickles it once.",
    ),
    Skip(
        "joblib.test.test_dask",
        ("test_errors",),
        "Demands an error when there is no client: ours starts an embedded cluster.",
    ),
    Skip(
        "joblib.test.test_dask",
        ("test_joblib_warning_inside_dask_daemonic_worker[dask]",),
        "Expects the warning of joblib's local backends that they cannot start processes "
        "in a daemonic worker: ours starts none there, it uses the worker's cluster.",
    ),
    Skip(
        "joblib.test.test_dask",
        ("test_nested_backend_context_manager_implicit_n_jobs",),
        "Asserts the backend of a nested call while as many tasks run as there are "
        "threads: ours runs it where it is then.",
    ),
    Skip(
        "joblib.test.test_dask",
        ("test_correct_nested_backend",),
        "Asserts threads three levels down: ours counts levels as joblib's own backends "
        "do, which below the second run one task at a time.",
    ),
    Skip(
        "joblib.test.test_parallel",
        ("test_error_capture[dask]",),
        "Demands that a KeyboardInterrupt raised in a task ends the caller as one: we "
        "promise a named error instead. Also looks at the private pool of workers of "
        "joblib's local backends.",
    ),
    Skip(
        "joblib.test.test_parallel",
        ("test_nested_backend_context_manager[*-dask]",),
        "Asserts that calls inside of tasks use joblib's ThreadingBackend: those of ours "
        "go back to the cluster.",
    ),
    Skip(
        "joblib.test.test_parallel",
        ("test_nested_parallelism_limit[*-dask]",),
        "Asserts that the first nested call uses joblib's ThreadingBackend and the next "
        "its SequentialBackend: those of ours go back to the cluster.",
    ),
    Skip(
        "joblib.test.test_parallel",
        (
            "test_auto_memmap_on_arrays_from_generator[dask]",
            "test_memmapping_leaks[dask]",
        ),
        "Looks for numpy.memmap, joblib's own way to share arrays with its processes.",
    ),
    Skip(
        "joblib.test.test_parallel",
        (
            "test_abort_backend[*-None]",
            "test_abort_backend[*-dask]",
            "test_abort_backend[*-backend10]",  # ours, as an instance
            "test_multiple_generator_call_separated_gc[*dask*]",
        ),
        "Needs workers that are free while tasks of a call that was given up, or of the "
        "test before, are in a time.sleep(10), or (30): C code cannot be interrupted, "
        "and we do not kill workers that others may use.",
    ),
    Skip(
        "sklearn.ensemble.tests.test_forest",
        ("test_backend_respected",),
        "Counts the calls on the very backend object that it registered: ours gives each "
        "Parallel an object of its own.",
    ),
    Skip(
        "joblib.test.test_parallel",
        ("test_backend_batch_statistics_reset[dask]",),
        _BATCHING,
    ),
    Skip(
        "joblib.test.test_parallel",
        ("test_initializer_context[*-dask-*]", "test_initializer_parallel[dask-*]"),
        "Passes initializer and initargs, options of joblib's pools of processes: ours "
        "has no such options, and we promise to refuse unknown ones.",
    ),
    Skip(
        "joblib.test.test_parallel",
        ("test_effective_n_jobs_None[*]", "test_nested_backend_in_sequential[*-dask-*]"),
        _ALL_BY_DEFAULT,
    ),
    Skip(
        "joblib.test.test_parallel",
        ("test_backend_hinting_and_constraints[*]",),
        "Asserts that prefer='processes' gives joblib's LokyBackend: joblib keeps a "
        "default backend that uses no threads, and ours is the default here.",
    ),
    Skip(
        "joblib.test.test_parallel",
        ("test_threadpool_limitation_in_child_override[*]",),
        "Changes the caller's environment and expects the change in tasks: loky then "
        "starts other processes, while a cluster's workers keep their environment.",
    ),
    Skip(
        "sklearn.utils.tests.test_parallel",
        ("test_parallel_delayed_warnings",),
        _WARNINGS,
    ),
    Skip(
        "sklearn.model_selection.tests.test_search",
        ("test_grid_search_cv_splits_consistency",),
        "Searches with a cv object that holds a generator. scikit-learn sends the search "
        "with each task, and so the generator, which cannot be pickled.",
    ),
    Skip(
        "sklearn.model_selection.tests.test_search",
        (
            "test_multi_metric_search_forwards_metadata[*]",
            "test_search_callbacks_receive_search_instance[*]",
        ),
        _RECORDS,
    ),
    Skip(
        "sklearn.model_selection.tests.test_search",
        ("test_search_callbacks_with_partial_fit_failures",),
        "Has tasks report an object of a class local to the test through a queue of "
        "multiprocessing, which cannot pickle it.",
    ),
    Skip(
        "sklearn.model_selection.tests.test_search",
        ("test_search_cv_verbose_3[*]",),
        _OUTPUT,
    ),
    Skip(
        "sklearn.model_selection.tests.test_search",
        ("test_searchcv_raise_warning_with_non_finite_score[*]",),
        _WARNINGS,
    ),
    Skip(
        "sklearn.model_selection.tests.test_validation",
        (
            "test_cross_val_predict[coo_*]",
            "test_cross_val_score_failing_scorer[nan]",
            "test_cross_val_score_failing_scorer[0]",
            "test_cross_validate_failing_scorer[*-nan]",
            "test_cross_validate_failing_scorer[*-0]",
            "test_cross_validate_invalid_scoring_param",
        ),
        _WARNINGS,
    ),
    Skip(
        "sklearn.model_selection.tests.test_validation",
        (
            "test_cross_val_score_score_func",
            "test_learning_curve_exploit_incremental_learning_routing",
            "test_validation_functions_routing[cross_val*]",
            "test_validation_functions_routing[learning_curve-*]",
            "test_validation_functions_routing[validation_curve-*]",
        ),
        _RECORDS,
    ),
    Skip(
        "sklearn.model_selection.tests.test_validation",
        ("test_passed_unrequested_metadata[cross_val_score-extra_args1]",),
        "Expects an exception of scikit-learn's that cannot be unpickled, as it demands "
        "keywords: we promise a named error that tells of it.",
    ),
    Skip(
        "sklearn.model_selection.tests.test_validation",
        (
            "test_cross_val_predict_decision_function_shape",
            "test_learning_curve_params",
        ),
        "Several of its tasks fail, and it expects the error of the first: joblib raises "
        "the error that arrives first.",
    ),
    Skip(
        "sklearn.ensemble.tests.test_bagging",
        ("test_metadata_routing_with_dynamic_method_selection[*]",),
        _RECORDS,
    ),
    Skip(
        "sklearn.ensemble.tests.test_voting",
        ("test_metadata_routing_for_voting_estimators[*]",),
        _RECORDS,
    ),
    Skip("sklearn.ensemble.tests.test_voting", ("test_voting_verbose[*]",), _OUTPUT),
    Skip(
        "sklearn.ensemble.tests.test_stacking",
        ("test_metadata_routing_for_stacking_estimators[*]",),
        _RECORDS,
    ),
    Skip("sklearn.tests.test_multiclass", ("test_ovr_always_present",), _WARNINGS),
    Skip(
        "sklearn.tests.test_pipeline",
        (
            "test_feature_union[*]",
            "test_feature_union_metadata_routing[*]",
            "test_n_features_in_feature_union",
        ),
        _RECORDS,
    ),
    Skip(
        "sklearn.tests.test_pipeline",
        (
            "test_verbose[est12-*]",
            "test_verbose[est13-*]",
            "test_verbose[est14-*]",
            "test_verbose[est15-*]",
        ),
        _OUTPUT,
    ),
    Skip(
        "sklearn.compose.tests.test_column_transformer",
        ("test_column_transformer_verbose[*]",),
        _OUTPUT,
    ),
    Skip(
        "sklearn.compose.tests.test_column_transformer",
        ("test_metadata_routing_for_column_transformer[*]",),
        _RECORDS,
    ),
    Skip(
        "sklearn.linear_model.tests.test_logistic",
        ("test_logistic_cv_mock_scorer",),
        _RECORDS,
    ),
)
