"""The tests that do not apply to our backend, each with its reason.

A defect of ours is no reason: such a test is to fail. A row that matches no test is an
error; ``run.py --skipped`` says which of the tests would pass by now.
"""

from __future__ import annotations

from typing import NamedTuple


class Skip(NamedTuple):
    """A test that does not apply, or several for the same reason."""

    module: str
    #: Name of the test with its parameters; ``*`` stands for any text.
    tests: str
    reason: str


_DASK = "joblib.test.test_dask"
_PARALLEL = "joblib.test.test_parallel"
_SKLEARN_PARALLEL = "sklearn.utils.tests.test_parallel"

_SCATTER_EVENTS = (
    "Counts the receive-from-scatter events of the workers: joblib's dask backend brings "
    "arrays there with Client.scatter, ours does not use it."
)

SKIPS = (
    Skip(
        _DASK,
        "test_dask_backend_uses_autobatching",
        "Asserts that compute_batch_size is that of joblib's AutoBatchingMixin and reads "
        "its private state: ours sizes batches by a policy of its own.",
    ),
    Skip(_DASK, "test_no_undesired_distributed_cache_hit", _SCATTER_EVENTS),
    Skip(_DASK, "test_auto_scatter", _SCATTER_EVENTS),
    Skip(
        _DASK,
        "test_errors",
        "Demands an error when there is no client: ours then starts an embedded cluster.",
    ),
    Skip(
        _DASK,
        "test_joblib_warning_inside_dask_daemonic_worker[dask]",
        "Expects the warning of joblib's local backends that they cannot start processes "
        "in a daemonic worker: ours starts none there, it uses the worker's cluster.",
    ),
    Skip(
        _PARALLEL,
        "test_error_capture[dask]",
        "Demands that a KeyboardInterrupt raised in a task ends the caller as one: we "
        "promise a named error instead. Also looks at the private pool of workers of "
        "joblib's local backends.",
    ),
    Skip(
        _PARALLEL,
        "test_nested_backend_context_manager[*-dask]",
        "Asserts that calls inside of tasks use joblib's ThreadingBackend: those of ours "
        "go back to the cluster.",
    ),
    Skip(
        _PARALLEL,
        "test_nested_parallelism_limit[*-dask]",
        "Asserts that the first nested call uses joblib's ThreadingBackend and the next "
        "its SequentialBackend: those of ours go back to the cluster.",
    ),
    Skip(
        _PARALLEL,
        "test_backend_batch_statistics_reset[dask]",
        "Reads the private state of joblib's AutoBatchingMixin: ours sizes batches by a "
        "policy of its own.",
    ),
    Skip(
        _PARALLEL,
        "test_initializer_*[*dask*]",
        "Passes initializer and initargs, options of joblib's pools of processes: ours "
        "has no such options, and we promise to refuse unknown ones.",
    ),
    Skip(
        _SKLEARN_PARALLEL,
        "test_parallel_delayed_warnings",
        "Expects the tasks of a call without n_jobs to warn in the caller's process, as "
        "joblib's local backends then run them there: the default of ours is to use the "
        "cluster.",
    ),
)
