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

#: Bytes of a report that is carried, at most: other messages wait behind it. A guess.
MOST = 2**16

#: What has distributed pickle a type in another way, whatever `copyreg` says.
_PICKLED_OTHERWISE = b"__main__"


class _Carrier(type):
    """The type of one result: is pickled as the bytes that the result consists of."""

    report: bytes


# To bytes, not to the type itself, which is what mypy misses below.
def _reduce(carrier: _Carrier) -> tuple[type[bytes], tuple[bytes]]:
    return bytes, (carrier.report,)


copyreg.pickle(_Carrier, _reduce)  # type: ignore[arg-type]


class _Result:
    """Bytes that are known by their type."""

    report: bytes

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
    return _Carrier("Report", (_Result,), {"report": report})()


def report_in(type_of_result: object) -> bytes | None:
    """Return the report that came as the type of a result, if it did."""
    return type_of_result if isinstance(type_of_result, bytes) else None
