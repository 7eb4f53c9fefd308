"""The command line: what is asked for, and who does it."""

from __future__ import annotations

import argparse
import atexit
import functools
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib
import yaml

import joblib_distributed
from joblib_distributed.command import script, specs
from joblib_distributed.command.check import table
from joblib_distributed.command.page import page
from joblib_distributed.command.report import report
from joblib_distributed.driver import telling
from joblib_distributed.driver.backend import DaskDistributedBackend
from joblib_distributed.driver.fitness import problems
from joblib_distributed.driver.records import RECORDS
from joblib_distributed.driver.sources import find_cluster
from joblib_distributed.driver.spans import SPANS
from joblib_distributed.errors import JoblibDistributedError, OptionValueError
from joblib_distributed.options import Options

#: Name of joblib's default backend while a program is run.
NAME = "joblib-distributed"

#: Calls of which the quickest is told; bytes of the argument of some. A guess: a second.
CALLS, DATA = 5, 2**24

#: Exit code if nothing was run, as of ``python``.
NOT_RUN = 2

_RUN = """Runs a program as `python` would, but for one thing: calls of joblib.Parallel
that name no backend, and so scikit-learn's, run on a cluster: the one that is named, or
one of this machine's cores that is started when it is needed. Ends with a line on what
the calls did, to stderr."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    given = _parser().parse_args(arguments)
    try:
        code: int = given.act(given)
    except JoblibDistributedError as error:
        telling.tell(f"joblib-distributed: {error}")
        return NOT_RUN
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "joblib-distributed", description="joblib on dask.distributed."
    )
    parser.add_argument(
        "--version", action="version", version=joblib_distributed.__version__
    )
    commands = parser.add_subparsers(required=True, metavar="run | check")
    run = commands.add_parser(
        "run",
        help="run a program, its joblib calls on a cluster",
        description=_RUN,
        usage="%(prog)s [options] (SCRIPT | -m MODULE) [arguments]",
    )
    run.set_defaults(act=_run)
    _add_cluster(run)
    run.add_argument(
        "--report",
        metavar="FILE",
        help="write what the calls did, as a page for browsers",
    )
    run.add_argument("-m", dest="module", nargs=argparse.REMAINDER, metavar="MODULE",
                     help="run a module, as `python -m`")  # fmt: skip
    run.add_argument("program", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    run.set_defaults(parser=run)
    check = commands.add_parser(
        "check",
        help="look whether calls can run on a cluster",
        description="Shows what runs in the driver, the scheduler and the workers, and "
        "how to mend what differs. Exit code 1 if calls would fail.",
    )
    check.set_defaults(act=_check)
    _add_cluster(check)
    return parser


def _add_cluster(command: argparse.ArgumentParser) -> None:
    where = command.add_mutually_exclusive_group()
    where.add_argument("--scheduler", metavar="ADDRESS", help="HOST:PORT, or tls://...")
    where.add_argument("--scheduler-file", metavar="FILE", help="that a scheduler wrote")
    where.add_argument(
        "--cluster", metavar="SPEC", help="start the cluster that this YAML describes"
    )
    where.add_argument(
        "--workers", type=int, metavar="N", help="processes on this machine"
    )
    command.add_argument(
        "-o", "--option", action="append", default=[], metavar="NAME=VALUE",
        help="of the backend, such as retries=2; see joblib_distributed.Options",
    )  # fmt: skip


def _check(given: argparse.Namespace) -> int:
    options = _options(given)
    cluster = find_cluster(Options.from_keywords(options))
    found = cluster.survey()
    failing, notes = problems(found)
    telling.tell(table(found), to_stdout=True)
    if not failing:
        telling.tell(_measured(options), to_stdout=True)
    for text in failing:
        telling.tell(f"Calls fail: {text}", to_stdout=True)
    for text in notes:
        telling.tell(f"Note: {text}", to_stdout=True)
    if not failing and not notes:
        telling.tell("Nothing to mend.", to_stdout=True)
    return 1 if failing else 0


def _measured(options: dict[str, Any]) -> str:
    """Say what a small call takes, and how fast data comes to a worker."""
    with joblib.parallel_config(backend="dask.distributed", max_nbytes=None, **options):
        seconds = {
            nbytes: min(_seconds_of_call(bytes(nbytes)) for _ in range(CALLS))
            for nbytes in (1, DATA)
        }
    rate = DATA / max(1e-9, seconds[DATA] - seconds[1])
    return (
        f"A call of one task takes {seconds[1] * 1e3:.1f} ms; arguments of a task travel "
        f"at {rate / 1e6:.0f} MB/s."
    )


def _seconds_of_call(argument: bytes) -> float:
    start = time.perf_counter()
    joblib.Parallel(n_jobs=-1)([joblib.delayed(len)(argument)])
    return time.perf_counter() - start


def _run(given: argparse.Namespace) -> int:
    is_module = given.module is not None
    program = given.module if is_module else given.program
    if not program:
        given.parser.error("no program: name a script, or a module after -m")
    if not is_module and not os.path.isfile(program[0]):
        telling.tell(
            f"joblib-distributed: there is no file {program[0]!r} in {os.getcwd()}: name "
            "a script, after all options, or a module after -m."
        )
        return NOT_RUN
    options = _options(given)
    atexit.register(lambda: telling.tell(report(RECORDS.summary)))
    if given.report is not None:
        _plan_page(" ".join(program), given.report)
    make = functools.partial(DaskDistributedBackend, **options)
    joblib.register_parallel_backend(NAME, make, make_default=True)
    # In this thread by name, too: as a mere default it would leave to threads what a
    # library says is better off there, scikit-learn's forests for example.
    with joblib.parallel_config(backend=NAME):
        (script.run_module if is_module else script.run_script)(program[0], program[1:])
    return 0


def _plan_page(title: str, path: str) -> None:
    """Have a page of what the calls did written at the end.

    Raises
    ------
    OptionValueError
        If nothing can be written there: the user is to hear of it now.
    """
    path = os.path.abspath(path)  # the program may go elsewhere

    def write() -> None:
        text = page(title, RECORDS.summary, SPANS.spans)
        try:
            Path(path).write_text(text, encoding="utf-8")
        except OSError as error:
            telling.tell(f"joblib-distributed: the report was not written: {error}.")

    try:
        Path(path).touch()
    except OSError as error:
        raise OptionValueError(
            f"--report {path!r} cannot be written: {error.strerror}. Name a file in a "
            "folder that exists and is yours."
        ) from error
    SPANS.are_wanted = True
    atexit.register(write)


def _options(given: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the backend, where the cluster can be reached.

    Raises
    ------
    JoblibDistributedError
        If it cannot, or an option is not right.
    """
    options = dict(map(_parse, given.option))
    if given.workers is not None:
        options["n_workers"] = given.workers
    host = given.scheduler or given.scheduler_file
    if host is not None:
        options["scheduler_host"] = host
    Options.from_keywords(options)
    if given.cluster is not None:
        cluster = specs.start_cluster(specs.read_spec(given.cluster))
        atexit.register(cluster.close)
        client = cluster.get_client()
        atexit.register(client.close)
        options["client"] = client
    elif host is not None:
        joblib_distributed.get_client(**options)  # not in the middle of the program
    return options


def _parse(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise OptionValueError(
            f"-o {text!r} gives no value: write NAME=VALUE, retries=2 for example."
        )
    try:
        return name.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise OptionValueError(
            f"-o {text!r} has a value that cannot be read: {error}. Write a number, a "
            "text, true, false or [a, list]."
        ) from error


if __name__ == "__main__":
    sys.exit(main())
