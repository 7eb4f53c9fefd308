"""Reports that travel with the news that their task has ended.

The engine has the client told of a task's end, and of the type of its result, in one
message; the result has then to be asked for, through the scheduler, from its worker. A
small report needs no such way: it is what the type of the result is pickled as.

See Also
--------
joblib_distributed.worker.run : makes them.
joblib_distributed.driver.fetching : looks for them.
"""

from __future__ import annotations

import copyreg
from typing import Any

#: Bytes of a report that is carried, at most: what some thousand numbers are. To ask for
#: it costs the driver's event loop 2.5 ms, measured; but the engine keeps its last
#: messages, a thousand of each connection, for people to look at. A guess.
MOST = 2**15

#: What has distributed pickle a type in another way, whatever `copyreg` says.
_PICKLED_OTHERWISE = b"__main__"


class _Carrier(type):
    """The type of one result: is pickled as the bytes that the result consists of.

    All are equal, as dask remembers what it has found out of each type, for ever.
    """

    report: bytes

    def __hash__(cls) -> int:
        return hash(_Result)

    def __eq__(cls, other: object) -> bool:
        return other is _Result or isinstance(other, _Carrier)


# To bytes, not to the type itself, which is what mypy misses below.
def _reduce(carrier: _Carrier) -> tuple[type[bytes], tuple[bytes]]:
    # Once, as a worker keeps the types of its last results in a record of its own.
    report, carrier.report = carrier.report, b""
    return bytes, (report,)


copyreg.pickle(_Carrier, _reduce)  # type: ignore[arg-type]


class _Result:
    """Bytes that are known by their type."""

    def __init__(self, report: bytes) -> None:
        self.report = report

    def __reduce__(self) -> tuple[type[bytes], tuple[bytes]]:
        return bytes, (self.report,)

    def __sizeof__(self) -> int:
        return len(self.report)


def carried(report: bytes) -> object:
    """Return what a task is to return for its report to be carried.

    Rests on the worker pickling the type of a result, in the message that tells of it, by
    `pickle` (distributed 2025.9 to 2026.8). The result itself, if it is asked for, is the
    bytes; those of a large report at once.
    """
    if len(report) > MOST or _PICKLED_OTHERWISE in report:
        return report
    carrier = _Carrier("Report", (_Result,), {"report": report})
    result: object = carrier(report)
    return result


def report_in(type_of_result: object) -> bytes | None:
    """Return the report that came as the type of a result, if it did.

    It comes with the first news of its end, not if a worker tells of that again.
    """
    came = isinstance(type_of_result, bytes) and type_of_result
    return type_of_result if came else None  # type: ignore[return-value]


def report_of(result: Any) -> Any:
    """Return the report that a result is, also if it was not moved from its process."""
    return result.report if isinstance(result, _Result) else result
