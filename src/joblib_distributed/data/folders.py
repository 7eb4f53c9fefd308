"""Whether a folder may be a store, and how large.

See Also
--------
joblib_distributed.data.store : what is kept there.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path


class StoreError(OSError):
    """A folder cannot be a store; the text says why."""


def check_own(folder: Path) -> None:
    """Raise `StoreError` unless a folder is ours alone."""
    found = os.lstat(folder)
    if stat.S_ISLNK(found.st_mode):
        raise StoreError(f"{folder} is a link, which another user may have made")
    if not stat.S_ISDIR(found.st_mode):
        raise StoreError(f"{folder} is no folder")
    if found.st_uid != os.getuid():
        raise StoreError(f"{folder} belongs to user {found.st_uid}, not to this one")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise StoreError(f"{folder} is open to other users: its mode must be 0700")


#: File systems on which locks and mappings do not mean what we need: as they are called
#: in /proc/mounts.
_REMOTE = {
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs",
    "beegfs", "glusterfs", "fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.ceph",
    "virtiofs", "ocfs2", "gfs2",
}  # fmt: skip


#: What is mounted where, as this process sees it.
_MOUNTS = Path("/proc/self/mounts")


def check_file_system(parent: Path) -> None:
    """Raise `StoreError` if other machines may see a folder, too."""
    kind = _file_system(parent)
    if kind in _REMOTE:
        raise StoreError(f"{parent} is on a network file system ({kind})")


def _file_system(path: Path) -> str:
    """Return the type of the file system of a path; empty where nobody says."""
    try:
        lines = _MOUNTS.read_bytes().rstrip(b"\n").split(b"\n")
    except OSError:
        return ""
    best, kind = "", ""
    resolved = os.path.realpath(path) + "/"
    for line in lines:
        _, mounted, found, *_ = line.split(b" ")
        place = _unescaped(mounted).rstrip("/") + "/"
        if resolved.startswith(place) and len(place) >= len(best):
            best, kind = place, os.fsdecode(found)
    return kind


def _unescaped(mounted: bytes) -> str:
    """Return a path of /proc/mounts, where spaces and the like are octal numbers."""
    found = re.sub(rb"\\([0-3][0-7]{2})", lambda n: bytes([int(n[1], 8)]), mounted)
    return os.fsdecode(found)


def memory_limit() -> int:
    """Return the bytes of memory that this process may use at most."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cgroup = Path("/sys/fs/cgroup")
    for limit in (cgroup / "memory.max", cgroup / "memory" / "memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            total = min(total, int(limit.read_text()))
    return total
