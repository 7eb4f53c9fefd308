"""What tells versions of this package apart that cannot talk to each other."""

from __future__ import annotations

import hashlib

from joblib_distributed.data.batch import BatchPayload, CallContext
from joblib_distributed.data.modules import Modules, Source
from joblib_distributed.data.outcome import Failure, Missing, Outcome, Report
from joblib_distributed.data.printed import Chunk, Printed, Wanted
from joblib_distributed.data.tasks import References, Sharing
from joblib_distributed.data.variables import Variable
from joblib_distributed.data.warned import Warned

#: The version where this package is not installed, but was sent by a driver.
SENT = "sent by the driver"

_SAID = (
    BatchPayload, CallContext, Chunk, Failure, Missing, Modules, Outcome, Printed,
    References, Report, Sharing, Source, Variable, Wanted, Warned,
)  # fmt: skip


def wire_format() -> str:
    """Return a digest of the fields of all that driver and workers say to each other."""
    fields = repr([(each.__name__, each._fields) for each in _SAID])
    return hashlib.blake2b(fields.encode(), digest_size=4).hexdigest()
