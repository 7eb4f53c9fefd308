"""Takes the tasks of one call from joblib: packs them, stores their large data.

In whichever thread reads the user's iterable, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from joblib_distributed.data.host import host_store
from joblib_distributed.data.payload import Packer
from joblib_distributed.data.store import Buffer
from joblib_distributed.data.tasks import PackedTask, Scattered, Sharing, Tasks
from joblib_distributed.driver.batching import BatchPolicy
from joblib_distributed.driver.inputs import Inputs
from joblib_distributed.driver.tally import Tally


class Intake:
    """Of one call.

    Parameters
    ----------
    sharing : Sharing or None
        How large data is shared, if it is.
    scatter : sequence
        Objects that are packed once, for all tasks that take them.
    compute : callable
        Has the cluster compute a dask collection; returns the future.
    policy : BatchPolicy or None
        Told what the tasks are like.
    """

    def __init__(
        self,
        sharing: Sharing | None,
        scatter: Sequence[object],
        compute: Callable[[Any], Any],
        policy: BatchPolicy | None,
    ) -> None:
        self._sharing = sharing
        self._policy = policy
        self.tally = Tally()
        self.inputs = Inputs(compute)
        least = None if sharing is None else sharing.least
        self._packer = Packer(least, self._put, scatter, self.inputs.position_of)
        # Number of tasks read by the last batch, and by the end of joblib's last slice;
        # bytes of large buffers put since.
        self._read = self._sliced = 0
        self._stored = 0
        #: Name of the first task's function; empty before.
        self.name = ""
        #: Number of all tasks, once it is known.
        self.total: int | None = None

    @property
    def scattered(self) -> list[Scattered]:
        """What `scatter` became, with the first task."""
        return self._packer.scattered

    @property
    def given(self) -> int:
        """Number of tasks that `take` has returned so far."""
        return self._packer.gathered

    def read(self, item: object) -> object:
        """Pack what the user's iterable yielded, as soon as it did, if it is not plain.

        Raises
        ------
        NotATaskError, TaskPackingError
            To be raised where the user can see it.
        """
        task = self._packer.read(item)
        if type(task) is PackedTask:
            self.inputs.note_read(task)
        return task

    def _put(self, content: memoryview) -> Buffer:
        assert self._sharing is not None, "nothing is large if nothing is shared"
        buffer, found = host_store(self._sharing.temp_folder).put(content)
        if buffer.store is not None:  # else it is sent along with each batch
            self.tally.note_shared(buffer.name, content.nbytes, found)
        self._stored += 0 if found else content.nbytes
        return buffer

    def note_slice(self, seconds: float) -> None:
        """Take note of how long joblib took to read tasks, and to hand them over."""
        read, self._sliced = self._packer.count - self._sliced, self._packer.count
        if self._policy is not None and read:
            self._policy.note_slice(read, seconds)

    def note_length(self, left: int) -> None:
        """Take note of how many tasks are still to be read; negative if unknown."""
        self.total = self._packer.count + left if left >= 0 else None

    def take(self, items: Sequence[object]) -> list[Tasks]:
        """Return tasks that joblib hands over, as `read` returned them."""
        tasks = self._packer.gather(items)
        self.name = self.name or tasks[0].name
        read, self._read = self._packer.count - self._read, self._packer.count
        if self._policy is not None and read:
            self._policy.note_read(read, self._stored)
            self._stored = 0
        return tasks
