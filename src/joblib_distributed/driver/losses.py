"""What it looks like when a connection is lost."""

from __future__ import annotations

#: The second is tornado's, of a connection that the other side has closed before the TLS
#: handshake begins ("IOStream is not idle"). distributed lets it through.
LOST = (OSError, ValueError)
