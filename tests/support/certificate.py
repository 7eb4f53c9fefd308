"""A certificate for clusters that speak TLS."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import dask
from distributed import Security

ROLES = ("scheduler", "worker", "client")


class Certificate:
    """One certificate, signed by itself, for all three roles.

    Parameters
    ----------
    folder : pathlib.Path
        Where it and its key are written.
    """

    def __init__(self, folder: Path) -> None:
        self._certificate, self._key = folder / "certificate.pem", folder / "key.pem"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes"),
                *("-days", "2", "-subj", "/CN=localhost"),
                *("-keyout", str(self._key), "-out", str(self._certificate)),
            ],
            check=True,
            capture_output=True,
            timeout=30,
        )

    @property
    def settings(self) -> dict[str, str]:
        """dask's, by name."""
        found = {"distributed.comm.tls.ca-file": str(self._certificate)}
        for role in ROLES:
            found[f"distributed.comm.tls.{role}.cert"] = str(self._certificate)
            found[f"distributed.comm.tls.{role}.key"] = str(self._key)
        return found

    @property
    def security(self) -> Security:
        """The same, for whoever says it in code."""
        cert, key = str(self._certificate), str(self._key)
        return Security(
            require_encryption=True,
            tls_ca_file=cert,
            tls_client_cert=cert,
            tls_client_key=key,
        )

    @property
    def environment(self) -> dict[str, str]:
        """The same, for processes to come."""
        return {
            f"DASK_{name.replace('.', '__').replace('-', '_').upper()}": value
            for name, value in self.settings.items()
        }

    @property
    def demanding_environment(self) -> dict[str, str]:
        """The same; whoever is given it refuses what is not encrypted."""
        return {
            **self.environment,
            "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "true",
        }

    def use(self) -> None:
        """Have this process, and those that it starts, speak nothing but TLS."""
        os.environ.update(self.demanding_environment)
        dask.config.refresh()


def protocol() -> str:
    """Return what clusters of this process are to speak: ``"tls"`` or ``"tcp"``."""
    name = "distributed.comm.require-encryption"
    return "tls" if dask.config.get(name, False) else "tcp"
