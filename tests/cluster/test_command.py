"""The command line, as a user types it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from distributed import Client

from support.processes import CommandLineCluster

#: Of a program that says what it is, and makes calls in two threads.
PROGRAM = """
import sys, threading
from joblib import Parallel, delayed
from cubes import cube

print(__name__, sys.argv[1:], sys.path[0])
print(sum(Parallel(n_jobs=2)(delayed(cube)(i) for i in range(100))))

def call():
    parallel = Parallel(n_jobs=2)
    parallel(delayed(cube)(i) for i in range(10))
    print(type(parallel._backend).__name__)

thread = threading.Thread(target=call)
thread.start()
thread.join()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cubes.py").write_text("def cube(number):\n    return number**3\n")
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


def command(folder: Path, *arguments: object, given: str = "") -> tuple[int, str, str]:
    """Return the exit code, and what was written to stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "joblib_distributed.command.main", *map(str, arguments)],
        input=given,
        capture_output=True,
        text=True,
        timeout=50,
        cwd=folder,
    )
    return done.returncode, done.stdout, done.stderr


def python(folder: Path, *arguments: object) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=folder,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("program", [("program.py",), ("-m", "program")])
def test_a_program_runs_on_the_embedded_cluster(
    folder: Path, program: tuple[str, ...]
) -> None:
    code, out, err = command(folder, "run", "--workers", 2, *program, "--workers", "x")
    assert (code, out) == (
        0,
        f"__main__ ['--workers', 'x'] {folder}\n24502500\nDaskDistributedBackend\n",
    )
    assert err.startswith("joblib-distributed: 2 calls, 110 tasks in ")
    assert " on 2 threads, " in err


def test_a_program_runs_on_the_cluster_that_is_named(
    folder: Path, command_line_cluster: CommandLineCluster
) -> None:
    """Whose workers do not have its module."""
    address = command_line_cluster.address
    code, out, err = command(folder, "run", "--scheduler", address, "program.py")
    assert (code, out.splitlines()[1:]) == (0, ["24502500", "DaskDistributedBackend"])
    assert err.startswith("joblib-distributed: 2 calls, 110 tasks in ")


def test_a_page_tells_what_the_calls_did(folder: Path) -> None:
    code, _, err = command(
        folder, "run", "--workers", 2, "--report", "page.html", "program.py"
    )
    assert code == 0
    text = (folder / "page.html").read_text()
    assert "<h1>program.py</h1>" in text
    assert "2 calls, 110 tasks" in text
    assert "<td>110</td>" in text  # of the only function
    assert text.count("<title>cube: ") == text.count("<rect ") >= 2
    assert err.count("joblib-distributed: ") == 1


def test_a_page_that_cannot_be_written_is_refused_before_anything_runs(
    folder: Path,
) -> None:
    code, out, err = command(folder, "run", "--report", "no/page.html", "program.py")
    assert (code, out) == (2, "")
    assert "/no/page.html' cannot be written: No such file or directory" in err


def test_a_program_runs_on_a_cluster_that_a_file_describes(folder: Path) -> None:
    (folder / "spec.yaml").write_text(
        "class: dask.distributed.LocalCluster\n"
        "arguments: {n_workers: 1, threads_per_worker: 3, dashboard_address: null}\n"
        "adapt: {minimum: 1, maximum: 1}\n"
    )
    code, out, err = command(folder, "run", "--cluster", "spec.yaml", "program.py")
    assert (code, out.splitlines()[1:]) == (0, ["24502500", "DaskDistributedBackend"])
    assert " on 2 threads, " in err  # as many as n_jobs allows


@pytest.mark.parametrize(
    "text",
    [
        "import sys; sys.exit(7)",
        "import sys; sys.exit('no')",
        "raise KeyboardInterrupt",
        "try:\n    1 / 0\nexcept ArithmeticError as error:\n    raise OSError from error",
        "import collections\ncollections.OrderedDict(1)",
        "x = (",
    ],
    ids=["exit", "text", "interrupt", "chained", "library", "syntax"],
)
@pytest.mark.parametrize("way", [("end.py",), ("-m", "end")])
def test_a_program_ends_as_under_python(
    folder: Path, text: str, way: tuple[str, ...]
) -> None:
    (folder / "end.py").write_text(text)
    code, out, err = command(folder, "run", *way)
    expected = python(folder, *way)
    assert (code, out) == expected[:2]
    assert err.partition("joblib-distributed:")[0] == without_runpy(expected[2])


def without_runpy(text: str) -> str:
    """Leave out what ``python -m`` shows of itself."""
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if '"<frozen runpy>"' not in line)


def test_a_program_reads_what_is_given_to_it(folder: Path) -> None:
    (folder / "read.py").write_text("print(input() + '!')")
    assert command(folder, "run", "read.py", given="yes\n")[:2] == (0, "yes!\n")


def test_a_program_without_calls_is_told_so(folder: Path) -> None:
    (folder / "none.py").write_text("")
    err = command(folder, "run", "none.py")[2]
    assert err.startswith("joblib-distributed: the program made no call of joblib")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.py",), "there is no file 'nowhere.py' in "),
        (("-o", "retrie=2", "program.py"), "Unknown option retrie=2 "),
        (("-o", "retries", "program.py"), "-o 'retries' gives no value: "),
        (("-o", "retries=[", "program.py"), "-o 'retries=[' has a value that "),
        (("--scheduler", "nobody", "program.py"), "No dask scheduler could be reached "),
        (("--cluster", "no.yaml", "program.py"), "The description of a cluster, 'no.y"),
        (("--cluster", "program.py", "program.py"), "'program.py' is no YAML: "),
    ],
)
def test_what_cannot_be_run_is_told_in_a_line(
    folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = command(folder, "run", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"joblib-distributed: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: x", "describes no cluster: it has no `class`"),
        ("class: none.Such", "There is no class 'none.Such': No module named 'none'"),
        ("class: dask.Such", "There is no class 'dask.Such': module 'dask' has no attr"),
        ("class: dict\nscale: 3", "has scale, which says nothing here"),
        ("class: dict\narguments: 3", "`arguments` in "),
        (
            "class: fractions.Fraction\narguments: {n: 1}",
            "cannot be started with {'n': 1",
        ),
    ],
)
def test_a_description_that_is_none(folder: Path, text: str, message: str) -> None:
    (folder / "spec.yaml").write_text(text)
    code, _, err = command(folder, "run", "--cluster", "spec.yaml", "program.py")
    assert code == 2
    assert err.startswith("joblib-distributed: ")
    assert message in err


def test_no_program(folder: Path) -> None:
    code, _, err = command(folder, "run")
    assert code == 2
    assert "no program: name a script, or a module after -m" in err


# ------------------------------------------------------------------------------ check
def test_a_healthy_cluster(
    folder: Path, command_line_cluster: CommandLineCluster
) -> None:
    address = command_line_cluster.address
    code, out, _ = command(folder, "check", "--scheduler", address)
    assert code == 0
    head, driver, scheduler, *rest = out.splitlines()
    assert head.split()[:2] == ["Python", "joblib"]
    assert (driver.split()[0], scheduler.split()[0]) == ("driver", "scheduler")
    *workers, measured, verdict = rest
    with Client(address, set_as_default=False) as client:
        assert {line.split()[0] for line in workers} == {*client.nthreads()}
    assert measured.startswith("A call of one task takes ")
    assert verdict == "Nothing to mend."


def test_a_cluster_without_workers(folder: Path) -> None:
    with CommandLineCluster(0, 1) as cluster:
        code, out, _ = command(folder, "check", "--scheduler", cluster.address)
    assert code == 1
    assert out.splitlines()[3].startswith("Calls fail: The scheduler has no worker: ")
