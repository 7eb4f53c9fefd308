"""The public API, as users with a type checker see it. Checked, never run."""

from __future__ import annotations

import joblib
from typing_extensions import assert_type

import joblib_distributed
from joblib_distributed import DaskDistributedBackend, Options, errors

# ------------------------------------------------------------------------------- names
assert_type(joblib_distributed.__version__, str)
assert_type(joblib_distributed.BACKEND_NAMES, tuple[str, str])

# --------------------------------------------------------------------------- functions
joblib_distributed.register("dask")
joblib_distributed.register("dask", make_default=True)
joblib_distributed.register(3)  # type: ignore[arg-type]
joblib_distributed.get_client(n_workers=2).nthreads()
joblib_distributed.shutdown()

# ----------------------------------------------------------------------------- options
options = Options(
    client=None,
    scheduler_host="localhost:8786",
    n_workers=2,
    threads_per_worker=1,
    embedded_tls=True,
    scatter=[object()],
    retries=3,
    priority=1.5,
    resources={"GPU": 1},
    workers=["alice"],
    allow_other_workers=True,
    wait_for_workers_timeout=30,
    cap_n_jobs=False,
)
assert_type(options.retries, int)
assert_type(options.scheduler_host, str | None)
assert_type(options.embedded_tls, bool | None)
assert_type(options.replace({"retries": 1}), Options)
assert_type(options.nested(), Options)
assert_type(options.portable(), Options)
assert_type(Options.from_keywords({"retries": 1}), Options)
Options(retry=3)  # type: ignore[call-arg]
Options(retries="3")  # type: ignore[arg-type]
options.retries = 4  # type: ignore[misc]

# ----------------------------------------------------------------------------- backend
backend = DaskDistributedBackend(retries=3, inner_max_num_threads=1)
assert_type(backend.options, Options)
assert_type(backend.effective_n_jobs(-1), int)
with joblib.parallel_config(backend="dask.distributed", scheduler_host="localhost:8786"):
    pass
with joblib.parallel_config(backend=backend, n_jobs=4):
    pass

# ------------------------------------------------------------------------------ errors
try:
    pass
except errors.TaskError as error:
    assert_type(error.index, int | None)
    assert_type(error.function, str | None)
except errors.NoWorkersError as error:
    timeout: TimeoutError = error
except errors.OptionNameError as error:
    type_error: TypeError = error
except errors.JoblibDistributedError as error:
    exception: Exception = error
assert_type(errors.WorkerDiedError.of(3, "fit", "died"), errors.TaskError)
