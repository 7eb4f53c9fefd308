"""joblib's contract, translated. Holds no policy.

joblib may share one backend object between several `Parallel` objects. The one the user
configures is therefore only a *front*: asked to configure itself for a `Parallel` it
answers with a backend of its own for that one, through `FallbackToBackend`.
"""

from __future__ import annotations

import contextlib
import functools
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from joblib.parallel import (
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
)

from joblib_distributed.data.batch import CallContext
from joblib_distributed.data.host import host_store
from joblib_distributed.data.tasks import Sharing
from joblib_distributed.data.warned import issue
from joblib_distributed.driver import joblib_hooks, telling
from joblib_distributed.driver.batching import BatchPolicy
from joblib_distributed.driver.cluster import Cluster
from joblib_distributed.driver.intake import Intake
from joblib_distributed.driver.printing import Screen
from joblib_distributed.driver.progress import Progress
from joblib_distributed.driver.records import RECORDS
from joblib_distributed.driver.results import Error, Values
from joblib_distributed.driver.running import RunningCall
from joblib_distributed.driver.seceding import seceded
from joblib_distributed.driver.sources import (
    embedded_threads,
    find_cluster,
    is_fork_of_user,
)
from joblib_distributed.driver.surroundings import surroundings
from joblib_distributed.driver.traffic import Traffic, note_end
from joblib_distributed.options import Memory, Options
from joblib_distributed.worker.accounting import account_for_mappings
from joblib_distributed.worker.buffers import current_worker

#: What joblib passes to `configure` besides the options of this backend.
_JOBLIB_KEYWORDS = frozenset(
    {"max_nbytes", "temp_folder", "mmap_mode", "prefer", "require", "verbose", "context"}
)

#: How deep calls nest before the deeper ones run where they are. Each level takes a
#: thread for each of its tasks that waits, so that a recursion without end would take all
#: threads of all machines; in place it ends in a `RecursionError`. A guess: scikit-learn
#: nests two or three levels.
MOST_NESTED = 4

#: joblib's ``verbose`` from which a line about large data is printed; and from which
#: joblib prints to standard output.
VERBOSE_TRAFFIC = 10
VERBOSE_TO_STDOUT = 50

_FORKED = (
    "This process was forked from one that had used the dask.distributed backend, and "
    "dask does not survive a fork: the call runs here, one task at a time. Start "
    "processes with multiprocessing's 'spawn' or 'forkserver' method instead."
)


#: Seconds for which a cluster that was found busy counts as busy for the nested calls of
#: one batch. A guess: short against what a user waits for, long against asking.
BUSY_FOR = 0.1


class _Lately:
    """What the nested calls of one batch found when they last asked."""

    def __init__(self) -> None:
        self._busy_until = 0.0

    def is_busy(self, cluster: Cluster, depth: int) -> bool:
        """Whether there is no idle thread for a nested call."""
        now = time.monotonic()
        if now >= self._busy_until:
            self._busy_until = now + BUSY_FOR if cluster.is_busy(depth) else 0.0
        return now < self._busy_until


class DaskDistributedBackend(ParallelBackendBase):  # type: ignore[misc]
    """Runs `joblib.Parallel` calls on a dask.distributed cluster.

    Made by joblib, from ``parallel_config(backend="dask.distributed", ...)`` or
    ``Parallel(backend="dask.distributed", ...)``. Nothing is connected or started
    before the first call.

    Parameters
    ----------
    nesting_level : int, optional
        joblib's: how many backends are active around this one.
    inner_max_num_threads : int, optional
        Limit on the threads of BLAS and OpenMP libraries in each task.
    **options
        See `joblib_distributed.Options`.

    Raises
    ------
    OptionNameError, OptionTypeError, OptionValueError
        If an option does not exist or cannot have that value.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    supports_sharedmem = False
    uses_threads = False
    default_n_jobs = -1

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads
        )
        self.options = Options.from_keywords(options)
        #: How many calls of ours are around this one; `nesting_level` counts joblib's own
        #: backends, too.
        self.depth = 0
        #: The `Parallel` this backend belongs to; None for a front.
        self.parallel: Any = None
        self._cluster: Cluster | None = None
        self._n_jobs = 1
        self._call: RunningCall | None = None
        self._memory = Memory()
        self._close_progress: Callable[[], object] = int
        self._nested: tuple[ParallelBackendBase, int | None] | None = None
        # Whether its calls run in this thread while the cluster has no idle one.
        self._may_run_here = False
        self._lately = _Lately()

    def __reduce__(self) -> tuple[Any, ...]:
        # What arrives elsewhere finds its cluster anew, and is nobody's.
        return _rebuild, (
            self.options.portable(),
            self.nesting_level,
            self.inner_max_num_threads,
            self.depth,
        )

    # --------------------------------------------------------------- before a call
    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many tasks may run at a time.

        Asked for a `Parallel` that is used as a context manager, before each of its
        calls, it returns what `configure` does.

        Raises
        ------
        ValueError
            If `n_jobs` is 0.
        """
        if self.parallel is None:
            return self._limit(n_jobs)
        return self._jobs_for_joblib(n_jobs)

    def _limit(self, n_jobs: int | None) -> int:
        """Return how many tasks may run at a time."""
        n_jobs = self._checked(n_jobs)
        if is_fork_of_user():
            return 1
        if n_jobs > 0 and self.options.cap_n_jobs:
            return n_jobs
        threads = self._threads()
        if n_jobs == -1 or not self.options.cap_n_jobs or threads == 0:
            return threads
        return max(threads + 1 + n_jobs, 1)

    def _checked(self, n_jobs: int | None) -> int:
        if n_jobs == 0:
            raise ValueError(
                "n_jobs == 0 in Parallel has no meaning: use -1 for the whole cluster, "
                "or the number of tasks that may run at a time."
            )
        return self.default_n_jobs if n_jobs is None else n_jobs

    def _threads(self) -> int:
        if self._cluster is None:
            planned = embedded_threads(self.options)
            if planned is not None:
                return planned
        return self._find_cluster().wait_for_threads(self.options)

    def _find_cluster(self) -> Cluster:
        if self._cluster is None or self._cluster.closed:
            self._cluster = find_cluster(self.options)
        return self._cluster

    def configure(self, n_jobs: int = 1, parallel: Any = None, **keywords: Any) -> int:
        """Prepare for the calls of one `Parallel`; return how many jobs it has.

        Raises
        ------
        FallbackToBackend
            joblib's way to be told of another backend: for a front, one that belongs to
            `parallel`; for a single job, the sequential one.
        """
        n_jobs = self._checked(n_jobs)
        if self.parallel is not parallel:
            given = {k: v for k, v in keywords.items() if k not in _JOBLIB_KEYWORDS}
            options = self.options.replace(given)
            raise FallbackToBackend(self._belonging_to(parallel, options))
        if is_fork_of_user():
            warnings.warn(_FORKED, stacklevel=2)
            n_jobs = 1
        if n_jobs == 1 and (self.options.cap_n_jobs or is_fork_of_user()):
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self._n_jobs = n_jobs
        self._memory = Memory.of(keywords)
        cluster = self._find_cluster()
        if self._may_run_here and self._lately.is_busy(cluster, self.depth):
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        jobs = self._jobs_for_joblib(n_jobs)
        if jobs > 1 and self.depth == 0:
            cluster.check_workers()
            cluster.check_names(self.options)
        return jobs

    def _belonging_to(self, parallel: Any, options: Options) -> DaskDistributedBackend:
        # Of a subclass of the user's, too; `copy` would go through `__reduce__`.
        backend = object.__new__(type(self))
        backend.__dict__.update(self.__dict__)
        backend._cluster = None
        backend._call = None
        backend._nested = None
        # A nested call needs no other thread if it asks for nothing of its own.
        backend._may_run_here = (
            self.depth > 0 and options is self.options and not options.retries
        )
        backend.options = options
        backend.parallel = parallel
        return backend

    def _jobs_for_joblib(self, n_jobs: int | None) -> int:
        """Return the limit; but never 1 for somebody's cluster, unless 1 was asked for.

        joblib runs a call of a single job in the calling process. On an embedded
        cluster that is as good; one that the user named may be another machine. The
        ledger's limit still is 1.
        """
        jobs = self._limit(n_jobs)
        if is_fork_of_user() or (n_jobs == 1 and self.options.cap_n_jobs):
            return jobs
        return 2 if jobs == 1 and not self._find_cluster().is_embedded else jobs

    # --------------------------------------------------------------- during a call
    def start_call(self) -> None:
        """Open the ledger of a call."""
        limited = self.options.cap_n_jobs and self._n_jobs != -1
        # None left, they may come back: 0 would be never.
        limit = max(1, self._limit(self._n_jobs)) if limited else None
        cluster = self._find_cluster()
        threads = cluster.threads(self.options)
        auto = joblib_hooks.sizes_batches(self.parallel)
        sharing = self._sharing(cluster)
        self._call = RunningCall(
            cluster=cluster,
            options=self.options,
            limit=limit,
            around=surroundings(self.options, self._context, sharing),
            carry_back=self._carry_back,
            dispatch_more=self._dispatch_more,
            sharing=sharing,
            policy=BatchPolicy(limit or threads) if auto else None,
            depth=self.depth,
            withholds=not joblib_hooks.returns_in_order(self.parallel),
        )
        RECORDS.note_start(time.monotonic(), limit or threads)
        self._call.believes = joblib_hooks.returns_list(self.parallel)
        if joblib_hooks.grows_with_n_jobs(self.parallel):
            self._call.ahead.reads = True
            if limit is None and self.options.workers is None:
                self._call.ahead.planned_for = threads
        joblib_hooks.forget_leftovers(self.parallel)
        intake = self._call.intake
        joblib_hooks.pack_when_read(
            self.parallel, intake.read, intake.note_slice, intake.note_length
        )
        arrived, withheld = self._call.arrived, self._call.withheld
        progress = Progress(self.options.progress, telling.tell)
        screen = Screen(self.options.output == "prefix")
        look = functools.partial(_look, intake, progress, screen, limit or threads)
        self._close_progress = functools.partial(look, ends=True)
        joblib_hooks.wait_for_results(self.parallel, arrived, withheld, look)

    def _sharing(self, cluster: Cluster) -> Sharing | None:
        """Share large data unless all workers were found to have no store."""
        least, folder = self._memory.max_nbytes, self._memory.temp_folder
        if least is None or not cluster.has_stores(folder):
            return None
        worker = current_worker()
        if worker is not None:  # a nested call: what it shares is mapped here, too
            account_for_mappings(worker)
        store = host_store(folder)
        if not store.identity:
            return None
        store.want_results()
        return Sharing(
            max(least, 1),
            self._memory.mmap_mode,
            folder,
            store.identity,
            store.owner,
        )

    def _context(self) -> CallContext:
        backend, n_jobs = self.get_nested_backend()
        return CallContext(backend, n_jobs, self.inner_max_num_threads)

    def get_nested_backend(self) -> tuple[ParallelBackendBase, int | None]:
        """Return the backend, and its ``n_jobs``, of calls inside the tasks.

        joblib asks for it with each batch.
        """
        if self._nested is None:
            self._nested = self._make_nested()
        return self._nested

    def _make_nested(self) -> tuple[ParallelBackendBase, int | None]:
        if self.depth >= MOST_NESTED:
            return SequentialBackend(nesting_level=self.nesting_level), None
        backend = DaskDistributedBackend(
            nesting_level=(self.nesting_level or 0) + 1,
            inner_max_num_threads=self.inner_max_num_threads,
        )
        backend.depth = self.depth + 1
        backend.options = self.options.nested()
        return backend, -1

    def submit(self, func: Any, callback: Any = None) -> None:
        """Dispatch a joblib batch; `callback` gets its results or its error."""
        assert self._call is not None, "joblib calls start_call first"
        self._call.dispatch(joblib_hooks.tasks_of(func), callback)

    def retrieve_result_callback(self, out: Values | Error) -> list[object]:
        """Return what the batch gave, or raise."""
        if isinstance(out, Error):
            raise out.error
        return out.values

    def compute_batch_size(self) -> int:
        """Return how many tasks joblib is to put in the next batch."""
        policy = self._call.policy if self._call else None
        return 1 if policy is None else policy.batch_size()

    @contextlib.contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """Wait for results without keeping a thread of the worker we may be in."""
        with seceded():
            yield

    def _carry_back(self, callback: Any, error: Error) -> bool:
        return joblib_hooks.carry_back(self.parallel, callback, error)

    def _dispatch_more(self, batches: int, wanted: Callable[[], bool]) -> int:
        return joblib_hooks.dispatch_more(self.parallel, batches, wanted)

    # ---------------------------------------------------------------- after a call
    def abort_everything(self, ensure_ready: bool = True) -> None:  # noqa: ARG002
        """Stop what the call has queued or running."""
        if self._call is not None:
            self._call.cancel()

    def stop_call(self) -> None:
        """Close the ledger of the call."""
        if self._call is not None:
            joblib_hooks.undo(self.parallel)
            self._call.stop()
            with contextlib.suppress(Warning):  # as errors they come too late
                self._close_progress()
            tally = self._call.intake.tally
            self._tell(tally.traffic)
            RECORDS.note_end(time.monotonic(), tally.work, tally.traffic)
            self._call = None

    def _tell(self, traffic: Traffic) -> None:
        note_end(traffic)
        verbose = getattr(self.parallel, "verbose", 0)
        if verbose >= VERBOSE_TRAFFIC and any(traffic):
            # Where joblib itself writes to.
            telling.tell(f"[{self.parallel}]: {traffic}.", verbose >= VERBOSE_TO_STDOUT)

    def terminate(self) -> None:
        """Let go of the cluster; it was not made for this `Parallel` alone."""
        self.stop_call()
        self._cluster = None


def _look(
    intake: Intake, progress: Progress, screen: Screen, threads: int, ends: bool = False
) -> None:
    """Tell what there is to tell, in the thread that has asked for results."""
    printed = intake.tally.printed
    if ends:
        printed.extend(intake.tally.rest_of_printed())
    if printed:
        progress.clear()
    while printed:
        screen.show(printed.popleft())
    work = intake.tally.work
    tell = progress.close if ends else progress.show
    tell(intake.name, work.tasks + work.errors, intake.total, threads)
    while intake.tally.warned:
        issue(intake.tally.warned.popleft())


def _rebuild(
    options: Options,
    nesting_level: int | None,
    inner_max_num_threads: int | None,
    depth: int,
) -> DaskDistributedBackend:
    backend = DaskDistributedBackend(
        nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads
    )
    backend.options = options
    backend.depth = depth
    return backend
