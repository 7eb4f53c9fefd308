"""Which workers can have no store on their hosts: data is sent to them with tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from joblib_distributed.driver.telling import tell


class Storeless:
    """Of one cluster. Thread-safe.

    By the folder that the user has named for large data, if any.
    """

    def __init__(self) -> None:
        self._addresses: dict[str | None, set[str]] = {}

    def note(self, address: str, temp_folder: str | None) -> None:
        """Take note of one; tell the user of the first."""
        is_first = temp_folder not in self._addresses
        self._addresses.setdefault(temp_folder, set()).add(address)
        if is_first:
            tell(
                f"joblib_distributed: the host of worker {address} has no folder for "
                "large data: it is sent to each worker there, with each batch. Its own "
                "output says why. Give its host a /dev/shm or a temporary folder "
                "that is its user's to write to, or name a local one in temp_folder=."
            )

    def are_all(
        self, members: Callable[[], Iterable[str]], temp_folder: str | None
    ) -> bool:
        """Whether no worker has a store, so that there is no use in sharing.

        Parameters
        ----------
        members : callable
            Returns the addresses of all workers; not asked while there is no need.
        temp_folder : str or None
        """
        addresses = self._addresses.get(temp_folder)
        if not addresses:
            return False
        present = set(members())
        addresses &= present  # another one may come to the address
        return bool(present) and present <= addresses
