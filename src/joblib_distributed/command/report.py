"""What is said of a program's calls when it has ended. Pure."""

from __future__ import annotations

from joblib_distributed.driver.records import Summary


def report(summary: Summary) -> str:
    """Return the lines of a report, without the last line's end.

    Parameters
    ----------
    summary : Summary
        Of all calls of the program.
    """
    if not summary.calls:
        return (
            "joblib-distributed: the program made no call of joblib.Parallel that ran on "
            "the cluster. Calls with n_jobs=1, or with a backend of their own, run as "
            "they would without this command; so do calls in processes that it started."
        )
    work, traffic = summary.work, summary.traffic
    share = summary.efficiency
    lines = [
        f"joblib-distributed: {_number(summary.calls, 'call')}, "
        f"{_number(work.tasks, 'task')} in {summary.seconds:.1f} s; tasks took "
        f"{work.seconds:.1f} s on {_number(summary.threads, 'thread')}"
        + (f", {share:.0%} of the time that was there" if share is not None else "")
    ]
    if work.errors:
        lines.append(f"  {_number(work.errors, 'task')} failed")
    if work.deaths or work.lost:
        lines.append(
            f"  {_number(work.deaths, 'time')} a worker died with tasks, "
            f"{_number(work.lost, 'time')} the cluster lost some: they were run again"
        )
    if any(traffic):
        lines.append(f"  {traffic}")
    return "\n".join(lines)


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
