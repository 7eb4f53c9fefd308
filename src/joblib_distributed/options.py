"""The backend's options: validated once, at the edge, then passed on unchanged.

See Also
--------
joblib_distributed.driver.backend : receives them from the user.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import types
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

from joblib_distributed.errors import (
    OptionNameError,
    OptionTypeError,
    OptionValueError,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Options:
    """What a user may choose about the backend.

    Parameters
    ----------
    client : distributed.Client, optional
        The client to use. Not closed by us.
    scheduler_host : str, optional
        ``"HOST:PORT"``, ``"tcp://..."``, ``"tls://..."`` or the path of a scheduler
        file.
    n_workers, threads_per_worker : int, optional
        Size of the embedded cluster; used only when no other cluster is found.
        Default: one process per available core, one thread each.
    embedded_tls : bool, optional
        Whether the embedded cluster encrypts, and admits nobody but its own processes and
        their driver. Default: yes, but where no certificate can be made it is plain, with
        a warning; if true, that is an error.
    scatter : list or tuple, optional
        Objects that many tasks take as arguments: each is pickled once for the call.
    retries : int
        How often a task that raised an exception is tried again.
    deaths_allowed : int
        How many workers a task may take with it, one after the other while it runs
        alone, before it fails.
    priority : float
        dask's priority of the call's tasks; higher runs first. Nested calls run
        one step higher than their parents.
    resources : dict of str to float, optional
        Abstract resources each task takes on its worker.
    workers : str or list of str, optional
        Addresses or names of the workers that may run the tasks.
    allow_other_workers : bool
        Whether `workers` is only a preference.
    wait_for_workers_timeout : float
        Seconds to wait while the cluster has no worker before giving up.
    frozen_after : float
        Seconds without a sign of life after which what a worker was given is tried on
        another, too: whichever gives its results first. Infinite: never.
    race_stragglers : bool
        Whether a task that takes far longer than others of its call is tried on another
        worker, too, when threads idle: whichever gives its results first. It may then
        run more than once.
    scheduler_timeout : float
        Seconds for which a scheduler that was lost is looked for before the call fails.
        It is the client that looks: of several calls on one, the last to begin says for
        how long, and that stays so after it has ended.
    cap_n_jobs : bool
        Whether ``n_jobs`` limits the number of tasks that run at a time. If false,
        a call always uses the whole cluster.
    initializer : callable, optional
        Called once in each worker process, with `initargs`, before its first task of a
        call with this option; in those that join later, too. What it raises is raised by
        the call.
    initargs : list or tuple, optional
        Small: they are sent with each batch.
    modules : bool, or list or tuple of str or module
        Whether your own modules reach the workers: those beside the script, of editable
        installs, and any others that are not among the installed ones. A list names
        more that are to. What has compiled parts has to be installed on the workers.
    output : bool or "prefix"
        Whether what tasks print, and log by `logging`, is shown here, as it comes.
        "prefix": each line says which task it is of.
    progress : bool or "auto"
        Whether to show how far each call is: a bar in a terminal or a notebook, lines
        elsewhere, on stderr. "auto": for calls of more than two seconds, where there is
        a terminal or a notebook. Calls inside of tasks are not shown.

    Raises
    ------
    OptionTypeError, OptionValueError
        If a value cannot be meant.
    """

    client: Any = None
    scheduler_host: str | None = None
    n_workers: int | None = None
    threads_per_worker: int | None = None
    embedded_tls: bool | None = None
    scatter: Sequence[Any] = ()
    retries: int = 0
    deaths_allowed: int = 3
    priority: float = 0
    resources: Mapping[str, float] | None = None
    workers: str | Sequence[str] | None = None
    allow_other_workers: bool = False
    wait_for_workers_timeout: float = 10
    frozen_after: float = 10
    race_stragglers: bool = False
    scheduler_timeout: float = 300
    cap_n_jobs: bool = True
    initializer: Callable[..., object] | None = None
    initargs: Sequence[Any] = ()
    modules: bool | Sequence[Any] = True
    output: bool | str = True
    progress: bool | str = False

    def __post_init__(self) -> None:
        _check_host(self.scheduler_host)
        _check_count("n_workers", self.n_workers, least=1, optional=True)
        _check_count(
            "threads_per_worker", self.threads_per_worker, least=1, optional=True
        )
        if self.embedded_tls is not None:
            _check_flag("embedded_tls", self.embedded_tls)
        _check_count("retries", self.retries, least=0)
        _check_count("deaths_allowed", self.deaths_allowed, least=0)
        _check_number("priority", self.priority, least=float("-inf"))
        _check_number("wait_for_workers_timeout", self.wait_for_workers_timeout)
        _check_number("scheduler_timeout", self.scheduler_timeout)
        _check_number("frozen_after", self.frozen_after)
        _check_flag("race_stragglers", self.race_stragglers)
        _check_flag("allow_other_workers", self.allow_other_workers)
        _check_flag("cap_n_jobs", self.cap_n_jobs)
        _check_resources(self.resources)
        _check_workers(self.workers, self.allow_other_workers)
        _check_initializer(self.initializer, self.initargs)
        object.__setattr__(self, "modules", _checked_modules(self.modules))
        if self.output != "prefix" and not isinstance(self.output, bool):
            raise OptionTypeError(
                f'output must be True, False or "prefix", got {self.output!r} '
                f"({type(self.output).__name__})."
            )
        if self.progress != "auto" and not isinstance(self.progress, bool):
            raise OptionTypeError(
                f'progress must be True, False or "auto", got {self.progress!r} '
                f"({type(self.progress).__name__})."
            )
        scatter = () if self.scatter is None else self.scatter
        if not isinstance(scatter, (list, tuple)):
            raise OptionTypeError(
                f"scatter must be a list/tuple, got `{type(scatter).__name__}`: write "
                "scatter=[X] for a single object X."
            )
        object.__setattr__(self, "scatter", tuple(scatter))
        # Plain numbers, also of numpy's: dask sends them in messages.
        for name in ("n_workers", "threads_per_worker", "retries", "deaths_allowed"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else int(value))
        object.__setattr__(self, "priority", float(self.priority))

    @classmethod
    def from_keywords(cls, keywords: Mapping[str, Any]) -> Options:
        """Validate what a user wrote.

        Raises
        ------
        OptionNameError
            If a name is unknown; the message names the nearest.
        """
        check_names(keywords)
        return cls(**keywords)

    def replace(self, keywords: Mapping[str, Any]) -> Options:
        """Return these options with some of them overridden."""
        check_names(keywords)
        return dataclasses.replace(self, **keywords) if keywords else self

    def constraints(self) -> dict[str, Any]:
        """Return where tasks may run, as keywords of ``Client.submit``."""
        workers = self.workers
        return {
            "resources": dict(self.resources) if self.resources else None,
            "workers": [workers] if isinstance(workers, str) else _listed(workers),
            "allow_other_workers": self.allow_other_workers,
        }

    @property
    def is_constrained(self) -> bool:
        """Whether they say which workers may run the tasks."""
        return bool(self.resources or (self.workers and not self.allow_other_workers))

    def preferring(self, worker: str, anywhere: bool = False) -> Options:
        """Return the same with a worker to be preferred, unless they name any.

        Or with none, if tasks are to run anywhere that they may.
        """
        if anywhere and self.allow_other_workers:
            return dataclasses.replace(self, workers=None, allow_other_workers=False)
        if not worker or self.workers or self.resources:
            return self
        return dataclasses.replace(self, workers=worker, allow_other_workers=True)

    def avoiding(self, others: Sequence[str]) -> Options:
        """Return the same with others to be preferred, unless they say who may.

        Of those that they prefer already, these are; if there are none, all are.
        """
        if self.is_constrained or not others:
            return self
        preferred = set(self.constraints()["workers"] or ()).intersection(others)
        workers = sorted(preferred or others)
        return dataclasses.replace(self, workers=workers, allow_other_workers=True)

    def portable(self) -> Options:
        """Return what of these options has a meaning in another process."""
        return dataclasses.replace(self, client=None, scatter=())

    def nested(self) -> Options:
        """Return what a call made inside one of the tasks inherits.

        The cluster is then the one the task runs on, so nothing that names a
        cluster is kept; nor is data, which is with the task already.
        """
        return dataclasses.replace(
            self.portable(),
            scheduler_host=None,
            priority=self.priority + 1,
            progress=False,
        )


class Memory(NamedTuple):
    """joblib's options about large data."""

    max_nbytes: int | None = None
    mmap_mode: str | None = "r"
    temp_folder: str | None = None

    @classmethod
    def of(cls, keywords: Mapping[str, Any]) -> Memory:
        """Take them from what joblib passes to `configure`.

        Raises
        ------
        OptionValueError
            For a mode that a cluster cannot honour.
        """
        mode = keywords.get("mmap_mode", "r")
        if mode not in ("r", "c", None):
            raise OptionValueError(
                f"mmap_mode={mode!r} would let tasks write into the caller's data, which "
                "is on other machines or processes here. Use 'r' (read-only), 'c' (a "
                "private copy of what is written to) or None, and return what changes."
            )
        # Made whole here, as joblib does it: workers may be in another folder.
        folder = keywords.get("temp_folder") or None
        if folder is not None:
            folder = os.path.abspath(os.path.expanduser(folder))
        return cls(keywords.get("max_nbytes"), mode, folder)


#: What `joblib.parallel_config` itself takes, and may be meant.
_JOBLIB_NAMES = (
    "n_jobs", "verbose", "temp_folder", "max_nbytes", "mmap_mode", "prefer", "require",
    "inner_max_num_threads",
)  # fmt: skip

#: Names of all options, in the order of the documentation.
NAMES = tuple(field.name for field in dataclasses.fields(Options))


def _listed(names: Sequence[str] | None) -> list[str] | None:
    return None if names is None else list(names)


def check_names(keywords: Mapping[str, Any]) -> None:
    """Refuse names that are no options; see `Options.from_keywords`."""
    for name in keywords:
        if name not in NAMES:
            raise OptionNameError(
                f"Unknown option {name}={keywords[name]!r} of the dask.distributed "
                f"backend. Did you mean {_nearest(name)!r}? The options are: "
                f"{', '.join(NAMES)}."
            )


def _nearest(name: str) -> str:
    """Return the option that is probably meant."""
    known = (*NAMES, *_JOBLIB_NAMES)
    alike = difflib.get_close_matches(name, known, n=1)
    containing = [option for option in known if name and name in option]
    return (
        alike or containing or difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    )[0]


def _check_host(host: object) -> None:
    if host is None:
        return
    if not isinstance(host, (str, os.PathLike)):
        raise OptionTypeError(
            "scheduler_host must be 'HOST:PORT', an address or the path of a "
            f"scheduler file, got {host!r} ({type(host).__name__})."
        )
    if not str(host):
        raise OptionValueError(
            "scheduler_host is an empty string. Leave it out to use the current "
            "client or an embedded cluster, or give 'HOST:PORT'."
        )


def _check_initializer(initializer: object, arguments: object) -> None:
    if initializer is not None and not callable(initializer):
        raise OptionTypeError(
            "initializer must be a function to be called in each worker process, got "
            f"{initializer!r} ({type(initializer).__name__})."
        )
    if not isinstance(arguments, (list, tuple)):
        raise OptionTypeError(
            f"initargs must be a list or tuple, got {type(arguments).__name__}: write "
            "initargs=(value,) for a single argument."
        )


def _checked_modules(modules: object) -> bool | tuple[str, ...]:
    if isinstance(modules, bool):
        return modules
    names = [
        each.__name__ if isinstance(each, types.ModuleType) else each
        for each in (modules if isinstance(modules, (list, tuple)) else [None])
    ]
    if not all(isinstance(name, str) for name in names):
        raise OptionTypeError(
            "modules must be True, False, or a list of modules or of their names, got "
            f"{modules!r} ({type(modules).__name__})."
        )
    return tuple(map(str, names))


def _check_count(name: str, value: object, least: int, optional: bool = False) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise OptionTypeError(
            f"{name} must be a whole number, got {value!r} ({type(value).__name__})."
        )
    if int(value) < least:
        raise OptionValueError(f"{name} must be at least {least}, got {value}.")


def _check_number(name: str, value: object, least: float = 0) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise OptionTypeError(
            f"{name} must be a number, got {value!r} ({type(value).__name__})."
        )
    if not float(value) >= least:
        raise OptionValueError(f"{name} must be at least {least:g}, got {value}.")


def _check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise OptionTypeError(
            f"{name} must be True or False, got {value!r} ({type(value).__name__})."
        )


def _check_resources(resources: object) -> None:
    if resources is None:
        return
    if not isinstance(resources, Mapping):
        raise OptionTypeError(
            "resources must be a dict such as {'GPU': 1}, got "
            f"{resources!r} ({type(resources).__name__})."
        )
    for name, amount in resources.items():
        _check_number(f"resources[{name!r}]", amount)


def _check_workers(workers: object, others: bool) -> None:
    if workers is None:
        if others:
            raise OptionValueError(
                "allow_other_workers=True says that workers= is only a preference, "
                "but workers= was not given. Name the preferred workers, or leave "
                "both out."
            )
        return
    names = [workers] if isinstance(workers, str) else workers
    if (
        not isinstance(names, (list, tuple, set, frozenset))
        or not names
        or not all(isinstance(name, str) for name in names)
    ):
        raise OptionTypeError(
            "workers must be the address or name of a worker, or a non-empty list of "
            f"them, got {workers!r}."
        )
