"""What is sent of a batch, and with it. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from joblib_distributed.data.batch import BatchPayload, Surroundings
from joblib_distributed.data.payload import place
from joblib_distributed.data.store import Buffer
from joblib_distributed.data.tasks import (
    NOTHING_SHARED,
    References,
    Scattered,
    Shared,
    Sharing,
    Tasks,
)


class Sender:
    """Makes the payloads of one call's attempts.

    Parameters
    ----------
    call : str
        Identifies the call.
    around : Surroundings
    scattered : sequence of Scattered
        By position; may grow.
    sharing : Sharing or None
        How large data is shared, if it is.
    """

    def __init__(
        self,
        call: str,
        around: Surroundings,
        scattered: Sequence[Scattered],
        sharing: Sharing | None,
    ) -> None:
        self._call = call
        self._around = around
        self._scattered = scattered
        self._sharing = sharing

    def payload(
        self,
        tasks: Sequence[Tasks],
        with_buffers: bool,
        box: float | None = None,
        attempt: str = "",
    ) -> BatchPayload:
        """Return all that a worker needs to run these tasks.

        Parameters
        ----------
        tasks : sequence of PackedTask or PlainTasks
        with_buffers : bool
            Whether to send all buffers along, rather than those that no store has.
        box : float, optional
            Seconds after which tasks not begun are given back; by default, they are not.
        attempt : str, optional
            Its key; without it the attempt cannot be recalled.
        """
        references = {key: s.references for key, s in _shared(tasks).items()}
        scattered = self._scattered_of(references.values())
        along = {
            name: bytes(buffer.view)
            for name, buffer in self.buffers(tasks).items()
            if with_buffers or buffer.store is None
        }
        return BatchPayload(
            self._call,
            self._around.context,
            {task.function_key: task.function for task in tasks},
            tuple((t.index, t.function_key, t.arguments, t.plain) for t in tasks),
            references,
            {k: (s.packed, s.shared.references, s.seal) for k, s in scattered.items()},
            self._sharing,
            along,
            {position: place() for position in sorted(_inputs(references.values()))},
            math.inf if box is None else box,
            attempt,
            self._around.filters,
            self._around.initializer,
            self._around.modules,
            self._around.output,
            self._around.variables,
        )

    def lacking(self, tasks: Sequence[Tasks], names: Iterable[str]) -> dict[str, Buffer]:
        """Return the buffers with these names, if the tasks refer to them.

        A worker tells of all that its batch lacks; of that, some tasks may have been run.
        """
        buffers = self.buffers(tasks)
        return {name: buffers[name] for name in names if name in buffers}

    def buffers(self, tasks: Sequence[Tasks]) -> dict[str, Buffer]:
        """Return all buffers that tasks refer to, by name."""
        shared = list(_shared(tasks).values())
        scattered = self._scattered_of(s.references for s in shared)
        shared += [s.shared for s in scattered.values()]
        found = {buffer.name: buffer for one in shared for buffer in one.buffers}
        if self._around.stored is not None:  # whatever the tasks are
            found[self._around.stored.name] = self._around.stored
        return found

    def scattered(self) -> dict[str, Buffer]:
        """Return the buffers of all scattered objects, by name."""
        return {b.name: b for one in self._scattered for b in one.shared.buffers}

    def _scattered_of(self, references: Iterable[References]) -> dict[int, Scattered]:
        positions = {p for reference in references for p in reference.scattered}
        return {position: self._scattered[position] for position in positions}


def _inputs(references: Iterable[References]) -> set[int]:
    return {position for reference in references for position in reference.inputs}


def _shared(tasks: Iterable[Tasks]) -> dict[int | bytes, Shared]:
    """Return what arguments refer to, by index, and functions, by key."""
    found: dict[int | bytes, Shared] = {}
    for task in tasks:
        found[task.index] = task.shared
        found[task.function_key] = task.function_shared
    return {key: s for key, s in found.items() if s is not NOTHING_SHARED}
