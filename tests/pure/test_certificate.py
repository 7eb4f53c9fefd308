"""What the processes of an embedded cluster know each other by."""

from __future__ import annotations

import datetime
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import dask
import pytest
from cryptography import x509
from distributed import Security

from joblib_distributed.driver import certificate, embedded
from joblib_distributed.driver.certificate import is_wanted, temporary_security
from joblib_distributed.errors import OptionValueError

ROLES = ("scheduler", "worker", "client")


def certificate_of(security: Security) -> x509.Certificate:
    return x509.load_pem_x509_certificate(security.tls_ca_file.encode())


def test_every_role_has_the_one_certificate() -> None:
    security = temporary_security()
    assert security.require_encryption is True
    for role in ROLES:
        found = security.get_tls_config_for_role(role)
        assert found["cert"] == found["ca_file"] == security.tls_ca_file
        assert found["key"].startswith("-----BEGIN PRIVATE KEY-----\n")
        assert security.get_listen_args(role)["ssl_context"] is not None
    assert "PRIVATE" not in repr(security)


def test_each_cluster_has_its_own() -> None:
    first, second = temporary_security(), temporary_security()
    assert first.tls_ca_file != second.tls_ca_file
    assert first.tls_client_key != second.tls_client_key


def test_it_is_valid_although_a_clock_is_set_back() -> None:
    valid = certificate_of(temporary_security())
    now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
    hours = datetime.timedelta(hours=23)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the names that give the zone are of 42
        assert valid.not_valid_before < now - hours
        assert valid.not_valid_after > now + 9 * 365 * datetime.timedelta(days=1)


def test_what_the_user_has_configured_is_about_other_clusters() -> None:
    settings = {
        "distributed.comm.tls.ciphers": "no-such-cipher",
        "distributed.comm.tls.ca-file": "/no/such/file",
        "distributed.comm.tls.max-version": 1.2,
        "distributed.comm.tls.client.key": "/no/such/file",
    }
    with dask.config.set(settings):
        security = temporary_security()
        assert security.tls_max_version is None
        for role in ROLES:
            security.get_connection_args(role)


# -------------------------------------------------------------------- where none is made
class PanicException(BaseException):
    """What a broken module written in Rust raises when it is imported."""


@pytest.fixture(params=["missing", "broken"])
def without_cryptography(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Make it impossible to import; return why."""
    monkeypatch.setattr(certificate, "_has_warned", False)
    name = "cryptography.hazmat.primitives.asymmetric"
    monkeypatch.setitem(sys.modules, name, None)
    if request.param == "missing":
        return f"ModuleNotFoundError: import of {name} halted; None in sys.modules"

    class Broken:
        def __getattr__(self, name: str) -> object:
            raise PanicException("Python API call failed")

    monkeypatch.setitem(sys.modules, name, Broken())  # type: ignore[arg-type]
    return "PanicException: Python API call failed"


def test_it_is_wanted_by_default() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [is_wanted(option) for option in (None, True, False)] == [
            *(True, True, False)
        ]


def test_without_it_there_is_one_warning(without_cryptography: str) -> None:
    with pytest.warns(UserWarning, match="cannot use TLS") as caught:
        assert is_wanted(None) is False
    assert [str(warning.message) for warning in caught] == [
        "Any user of this machine can run code as you through the embedded cluster while "
        f"it is open: it cannot use TLS, because of {without_cryptography}. Install the "
        "package cryptography (pip install cryptography). embedded_tls=False says that "
        "you know, embedded_tls=True makes this an error."
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_wanted(None) is False


REQUIRED = "distributed.comm.require-encryption"


@pytest.mark.parametrize(
    ("option", "required", "wanted"),
    [
        (True, False, "embedded_tls=True"),
        (True, True, "embedded_tls=True"),
        (None, True, f"dask's {REQUIRED}=True"),
    ],
)
def test_without_it_whoever_insists_gets_an_error(
    option: bool | None, required: bool, wanted: str, without_cryptography: str
) -> None:
    with dask.config.set({REQUIRED: required}), pytest.raises(OptionValueError) as caught:
        is_wanted(option)
    assert str(caught.value) == (
        f"{wanted}: a certificate cannot be made here: {without_cryptography}. Install "
        "the package cryptography (pip install cryptography), or do not ask for one "
        "where no other user of this machine is to be feared."
    )


@pytest.mark.usefixtures("without_cryptography")
def test_without_it_whoever_wants_none_is_told_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_wanted(False) is False


def test_ctrl_c_is_not_taken_for_a_broken_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Interrupting:
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    name = "cryptography.hazmat.primitives.asymmetric"
    monkeypatch.setitem(sys.modules, name, Interrupting())  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        is_wanted(None)


# ------------------------------------------------------------- where workers keep files
posix = pytest.mark.skipif(not hasattr(os, "getuid"), reason="POSIX")


@posix
def test_workers_work_in_a_folder_of_the_user_alone(tmp_path: Path) -> None:
    with dask.config.set({"temporary-directory": str(tmp_path / "made")}):
        before = os.umask(0)
        try:
            folder = Path(embedded._scratch_folder() or "")
        finally:
            os.umask(before)
        assert folder == tmp_path / f"made/joblib-distributed-{os.getuid()}-workers-0"
        assert folder.stat().st_mode & 0o777 == 0o700
        assert embedded._scratch_folder() == str(folder)


def make_link(path: Path) -> None:
    (path.parent / "target").mkdir(0o700)
    path.symlink_to(path.parent / "target")


def make_open_to_others(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


def make_of_another_user(path: Path) -> None:
    if os.getuid():
        pytest.skip("only root can give a folder to another user")
    path.mkdir(0o700)
    os.chown(path, 65534, 65534)


@posix
@pytest.mark.parametrize("make", [make_link, make_open_to_others, make_of_another_user])
def test_a_folder_that_another_user_has_made_is_left_to_him(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    name = f"joblib-distributed-{os.getuid()}-workers-"
    make(tmp_path / f"{name}0")
    with dask.config.set({"temporary-directory": str(tmp_path)}):
        assert embedded._scratch_folder() == str(tmp_path / f"{name}1")
    assert (tmp_path / f"{name}1").stat().st_mode & 0o777 == 0o700
