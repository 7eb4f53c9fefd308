"""Which workers can have no store on their hosts: data is sent to them with tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from joblib_distributed.driver.telling import tell


class Storeless:
    """Of one cluster. Thread-safe."""

    def __init__(self) -> None:
        self._addresses: set[str] = set()
        self._is_told = False

    def note(self, address: str) -> None:
        """Take note of one; tell the user of the first."""
        self._addresses.add(address)
        if not self._is_told:
            self._is_told = True
            tell(
                f"joblib_distributed: the host of worker {address} has no folder for "
                "large data: it is sent to each worker there, with each batch. Its own "
                "output says why. Give its host a /dev/shm or a temporary folder "
                "that is its user's to write to, or name a local one in temp_folder=."
            )

    def are_all(self, members: Callable[[], Iterable[str]]) -> bool:
        """Whether no worker has a store, so that there is no use in sharing.

        Parameters
        ----------
        members : callable
            Returns the addresses of all workers; not asked while there is no need.
        """
        if not self._addresses:
            return False
        present = set(members())
        self._addresses &= present  # another one may come to the address
        return bool(present) and present <= self._addresses
