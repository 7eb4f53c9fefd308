"""What it looks like when a connection is lost."""

from __future__ import annotations

#: The second is tornado's, of a connection that the other side has closed before the TLS
#: handshake begins. distributed lets it through.
LOST = (OSError, ValueError)

#: What tornado's says.
_NOT_IDLE = "IOStream is not idle"


def is_loss(answer: object) -> bool:
    """Whether what came instead of an answer tells of nothing but a lost connection."""
    if isinstance(answer, ValueError):
        return _NOT_IDLE in str(answer)
    return isinstance(answer, OSError)
