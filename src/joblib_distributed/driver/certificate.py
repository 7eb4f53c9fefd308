"""What the processes of an embedded cluster know each other by.

A key and a certificate, made for one cluster, kept in memory, forgotten with it. Whoever
connects has to show the certificate and to have the key: any user of the machine can
reach a port of loopback, and whom a scheduler or worker talks to may have it run code.

`distributed.Security.temporary` makes such a pair, too. Its RSA key was measured to take
15 to 120 ms, and each connection more; one of an elliptic curve takes less than 1 ms. And
its certificate is not valid before the moment it is made: a clock that is then set back
would keep workers out until that moment has come again.
"""

from __future__ import annotations

import datetime
import warnings

import dask
from distributed import Security

from joblib_distributed.errors import OptionValueError

#: Before it is made, a certificate is valid for this long, and after that ten years: much
#: longer than clocks are set back, and than a process runs. A guess.
_DAY = datetime.timedelta(days=1)

_ROLES = ("scheduler", "worker", "client")

_REQUIRED = "distributed.comm.require-encryption"

_has_warned = False


def is_wanted(embedded_tls: bool | None) -> bool:
    """Whether an embedded cluster with this option is to speak TLS.

    Raises
    ------
    OptionValueError
        If it has to and cannot.
    """
    if embedded_tls is False:
        return False
    why = _why_not()
    if why and (embedded_tls or dask.config.get(_REQUIRED, False)):
        wanted = "embedded_tls=True" if embedded_tls else f"dask's {_REQUIRED}=True"
        raise OptionValueError(
            f"{wanted}: a certificate cannot be made here: {why}. Install the package "
            "cryptography (pip install cryptography), or do not ask for one where no "
            "other user of this machine is to be feared."
        )
    if why:
        _warn_once(why)
    return not why


def _why_not() -> str:
    """Say why no certificate can be made; empty if one can."""
    try:
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: F401
    except (KeyboardInterrupt, SystemExit):
        raise
    # It is written in Rust, and panics, which is no Exception, where it is broken.
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _warn_once(why: str) -> None:
    global _has_warned
    if _has_warned:
        return
    _has_warned = True
    warnings.warn(
        "Any user of this machine can run code as you through the embedded cluster while "
        f"it is open: it cannot use TLS, because of {why}. Install the package "
        "cryptography (pip install cryptography). embedded_tls=False says that you know, "
        "embedded_tls=True makes this an error.",
        stacklevel=2,
    )


def temporary_security() -> Security:
    """Return what makes servers and clients that have it talk to each other alone.

    Nothing in it is of the user's configuration, which is about other clusters.
    """
    key, certificate = _make()
    of_roles = {f"tls_{role}_key": key for role in _ROLES}
    of_roles |= {f"tls_{role}_cert": certificate for role in _ROLES}
    return Security(
        require_encryption=True,
        tls_ca_file=certificate,
        tls_ciphers=None,
        tls_min_version=None,  # dask's: 1.2; what is agreed on is the newest
        tls_max_version=None,
        **of_roles,
    )


def _make() -> tuple[str, str]:
    """Make a key and a certificate that it has signed itself, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "joblib-distributed")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + 3650 * _DAY)
        .sign(key, hashes.SHA256())
    )
    packed = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return packed.decode(), certificate.public_bytes(serialization.Encoding.PEM).decode()
