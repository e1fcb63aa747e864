"""Who works on a folder: a lock that also holds between machines, by a lease that its owner keeps renewing.

On one machine the kernel knows: it releases ``lock`` (flock) when its holder dies. Shared file systems may not tell
other machines of it, so the holder also owns a file ``lease-<number>``, whose time it sets every few seconds::

    lease-000004  owner dead: its time stands still        both want it, so both create lease-000005,
    lease-000005  <- created by A, exclusively             which only one of them can

The highest number holds the folder. Numbers only grow, so whoever was asleep in between finds a higher one and steps
back. A lease counts as dead when its time is old by the clock of the file system (not that of any machine), and did
not move while it was watched by the watcher's own clock.

On object stores there are leases only, created and renewed by conditional writes. A holder that died on this machine
is known by its process number, so that nobody has to wait for its lease.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self
from uuid import uuid4

from tileseg.errors import LockedError
from tileseg.storage.place import Url
from tileseg.storage.protocol import Stamp
from tileseg.storage.store import at

BEAT = 10.0
"""Seconds between renewals."""
EXPIRES = 60.0
"""Seconds without a renewal after which a lease of another machine is taken to be dead."""
_WATCH = 2 * BEAT
"""Seconds, by our clock, for which we must have seen it unchanged besides."""

_NO_FLOCK = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}

_seen: dict[Path | Url, tuple[Stamp, float]] = {}
"""Lease -> its stamp at the last look, and when it was first seen so by our clock."""


@dataclass(frozen=True, slots=True)
class _Lease:
    path: Path | Url
    number: int
    token: str = ""
    """What its maker wrote into it, if that was this process."""

    @property
    def owner(self) -> dict[str, Any]:
        """Who made it; empty while it is being written."""
        try:
            return dict(json.loads(at(self.path).read()))
        except (OSError, ValueError):
            return {}


class Hold(Protocol):
    """A folder that this process holds."""

    def check(self) -> None:
        """Look whether this process still holds the folder. Raises LockedError where another one took over."""


@contextmanager
def hold(folder: Path | Url, lost: Callable[[], None] | None = None) -> Iterator[Hold]:
    """Hold a folder for this process.

    ``lost``: called (in another thread) when another process has taken the folder, because this one stood still for
    longer than the lease; then LockedError is raised at the end, and by ``check`` of what is yielded. Raises
    LockedError, naming the holder, at once or, where the holder seems to be dead, after watching it for some seconds.
    """
    at(folder).make_folder()
    with _kernel(folder) as kernel, _Heartbeat(_take(folder, kernel=kernel), lost) as heart:
        yield heart


def alive(folder: Path | Url) -> bool | None:
    """Whether somebody holds a folder: True if the lease was renewed since the last look, None if that is not sure."""
    lease = _highest(folder)
    if lease is None or lease.owner.get("released"):
        return False
    try:
        look = _look_at(lease)
    except FileNotFoundError:
        return None
    if look.moved:
        return True
    return False if look.still > EXPIRES + _WATCH else None


@contextmanager
def _kernel(folder: Path | Url) -> Iterator[bool]:
    """Whether the kernel keeps the lock. Raises LockedError where another process of this machine has it."""
    if isinstance(folder, Url):
        yield False
        return
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield _flock(folder, handle)
    finally:
        os.close(handle)


def _flock(folder: Path, handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _locked(folder) from None
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
        return False
    return True


def _take(folder: Path | Url, *, kernel: bool) -> _Lease:
    """Create the next lease. ``kernel``: flock is ours, so no other process of this machine is alive with it."""
    before = _highest(folder)
    if before is not None:
        owner = before.owner
        gone = owner.get("released") or (kernel and owner.get("boot") == _boot()) or _died(owner)
        if not gone and not _expired(folder, before):
            raise _locked(folder)
    number = 1 if before is None else before.number + 1
    mine = _Lease(folder / f"lease-{number:06d}", number, uuid4().hex)
    try:
        _write(mine.path, {**_me(), "token": mine.token}, new=True)
    except FileExistsError:
        if not _is_ours(mine):  # it is where our own write arrived, but the server's answer was lost
            raise _locked(folder) from None
    after = _highest(folder)
    if after is not None and after.number > mine.number:
        at(mine.path).remove()
        raise _locked(folder)
    for lease in _leases(folder):
        if lease.number < mine.number:
            at(lease.path).remove()
            _seen.pop(lease.path, None)
    return mine


def _is_ours(lease: _Lease) -> bool:
    """Whether a lease file still holds what this process wrote into it."""
    return lease.owner.get("token") == lease.token


def _expired(folder: Path | Url, lease: _Lease) -> bool:
    """Whether a lease's owner is dead. Where it seems so, watches it for some seconds to be sure."""
    try:
        look = _look_at(lease)
        age = (_now(folder) - look.time) / 1e9
        if -BEAT <= age <= EXPIRES:
            return False
        # A time to come is that of another clock, or of this one before it was set back: it tells nothing.
        enough = _WATCH if age > 0 else EXPIRES
        while not look.moved and look.still < enough:
            time.sleep(min(1.0, enough - look.still))
            look = _look_at(lease)
    except FileNotFoundError:
        return False  # somebody was quicker
    return not look.moved


@dataclass(frozen=True, slots=True)
class _Observation:
    """What a look at a lease shows."""

    time: int
    """When it was last renewed, by the file system's clock (nanoseconds)."""
    still: float
    """Seconds, by our clock, for which we have seen it unchanged."""
    moved: bool
    """Renewed since the last look."""


def _look_at(lease: _Lease) -> _Observation:
    stamp = at(lease.path).stamp()
    before = _seen.get(lease.path)
    if before is None or before[0] != stamp:
        _seen[lease.path] = (stamp, time.monotonic())
        return _Observation(stamp[1], 0.0, moved=before is not None)
    return _Observation(stamp[1], time.monotonic() - before[1], moved=False)


def _now(folder: Path | Url) -> int:
    """The file system's clock in nanoseconds: machines may disagree about the time."""
    probe = at(folder / f".clock-{uuid4().hex}")
    try:
        probe.write(b"")
        return probe.stamp()[1]
    finally:
        probe.remove()


class _Heartbeat:
    """Renews a lease while it is entered, until it is lost to somebody else."""

    def __init__(self, lease: _Lease, tell: Callable[[], None] | None) -> None:
        self._lease, self._tell = lease, tell
        self._stop = threading.Event()
        self.lost = False
        self._beats = 0
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def check(self) -> None:
        """Raise LockedError where another process holds the folder by now."""
        self._look()
        if self.lost:
            raise self._taken_over()

    def _taken_over(self) -> LockedError:
        folder = self._lease.path.parent
        return LockedError(f"{folder.parent}: {_name(_highest(folder))} took over while this process stood still")

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
        if self.lost:
            if isinstance(error, LockedError):
                return  # of check
            raise self._taken_over() from error
        with suppress(OSError):  # on a full disk; the kernel, or time, releases it as well
            _write(self._lease.path, {**_me(), "token": self._lease.token, "released": True})

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            self._look()
            if self.lost:
                if self._tell is not None:
                    self._tell()
                return
            with suppress(OSError):  # a file server that stalls: the next beat may reach it
                self._renew()

    def _renew(self) -> None:
        self._beats += 1
        at(self._lease.path).renew(json.dumps({**_me(), "token": self._lease.token, "beat": self._beats}).encode())

    def _look(self) -> None:
        with suppress(OSError):
            highest = _highest(self._lease.path.parent)
            if highest is None:
                return  # the folder itself is gone, which other errors tell
            foreign = highest.number != self._lease.number or highest.owner.get("token") not in (
                None,
                self._lease.token,
            )
            self.lost = self.lost or foreign


def _leases(folder: Path | Url) -> Iterator[_Lease]:
    for name in at(folder).listed()[0]:
        if name.startswith("lease-") and (number := name.removeprefix("lease-")).isdigit():
            yield _Lease(folder / name, int(number))


def _highest(folder: Path | Url) -> _Lease | None:
    return max(_leases(folder), key=lambda lease: lease.number, default=None)


def _write(path: Path | Url, value: dict[str, Any], *, new: bool = False) -> None:
    write = at(path).create if new else at(path).write
    write(json.dumps(value).encode())


def _me() -> dict[str, Any]:
    number = os.getpid()
    return {
        "process": number,
        "host": os.uname().nodename,
        "boot": _boot(),
        "namespace": _namespace(),
        "born": _born(number),
    }


def _died(owner: dict[str, Any]) -> bool:
    """Whether a lease's owner was a process of this machine that is no more. False where that is not sure."""
    born = owner.get("born")
    if born is None or owner.get("boot") != _boot() or owner.get("namespace") != _namespace():
        return False
    return bool(_born(owner["process"]) != born)


def _born(process: int) -> int | None:
    """When a process was started (ticks since the kernel was): numbers are used again. None where there is none."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])


def _namespace() -> str:
    """Names the set of process numbers: containers of one machine have their own."""
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - no file has that name
    except OSError:
        return ""


def _boot() -> str:
    """Names a running kernel: machines may share a name, containers of one machine do not."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return os.uname().nodename


def _locked(folder: Path | Url) -> LockedError:
    return LockedError(
        f"{folder.parent}: {_name(_highest(folder))} is working on this folder; wait for it, or choose another --out"
    )


def _name(lease: _Lease | None) -> str:
    owner = {} if lease is None else lease.owner
    return f"process {owner['process']} on {owner['host']}" if owner else "another process"
