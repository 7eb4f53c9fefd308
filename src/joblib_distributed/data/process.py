"""What tells this process from all others, on all machines."""

from __future__ import annotations

import os
import secrets

_TOKEN = secrets.token_hex(8)


def process_token() -> bytes:
    """Return what no other process returns; a forked one is another."""
    return f"{_TOKEN} {os.getpid()}".encode()
