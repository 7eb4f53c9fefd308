"""The code that documents show runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from joblib_distributed.command import specs
from joblib_distributed.options import NAMES

ROOT = Path(__file__).parents[2]

DOCUMENTS = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
)


def blocks(language: str) -> list[tuple[str, str]]:
    """Return the blocks of code in a language, each with the name of its document."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [
        (document.name, code)
        for document in DOCUMENTS
        for code in pattern.findall(document.read_text(encoding="utf-8"))
    ]


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(("document", "code"), blocks("python"))
def test_python_runs_as_it_stands(document: str, code: str, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=tmp_path,
    )
    assert done.returncode == 0, f"{document}: {done.stderr}"


@pytest.mark.parametrize(("document", "code"), blocks("yaml"))
def test_a_description_of_a_cluster_is_one(
    document: str, code: str, tmp_path: Path
) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(
        code.replace("dask_jobqueue.SLURMCluster", "distributed.LocalCluster")
    )
    assert specs.read_spec(str(path)), document
    assert "class" in yaml.safe_load(code)


def test_every_target_is_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    said = {
        target
        for _, code in blocks("sh")
        for target in re.findall(r"^make ([a-z]+)", code, re.MULTILINE)
    }
    assert said
    assert said <= targets


def test_every_option_is_in_the_table() -> None:
    readme = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| (`.*?`) \|", readme, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert set(NAMES) - named == set()


def test_there_is_something_to_run() -> None:
    assert {document for document, _ in blocks("python")} >= {"README.md"}
    assert {document for document, _ in blocks("yaml")} == {"README.md"}
