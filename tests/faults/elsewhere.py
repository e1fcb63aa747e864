"""The command line, or a bare lease, as on another machine: no lock of the kernel's, another name, another clock.

    python elsewhere.py HOST SKEW EXPIRES hold FOLDER     hold it until it is lost
    python elsewhere.py HOST SKEW EXPIRES tileseg ...     the command line

``SKEW``: seconds by which the clock is ahead. As on file systems that take times from their clients, files that this
process touches get its time.
"""

import os
import sys
import threading
import time
from pathlib import Path

from tileseg.errors import LockedError
from tileseg.storage import lease


def become(host: str, skew: float, expires: float) -> None:
    write, clock = lease._write, time.time_ns

    def now() -> int:
        return clock() + int(skew * 1e9)

    def touch(path: Path) -> None:
        os.utime(path, ns=(now(), now()))

    def write_and_touch(path: Path, value: dict, *, new: bool = False) -> None:
        write(path, value, new=new)
        touch(path)

    lease.BEAT, lease.EXPIRES, lease._WATCH = expires / 15, expires, expires * 2 / 3
    lease._flock = lambda folder, handle: False
    lease._boot = lambda: host
    lease._me = lambda: {"process": os.getpid(), "host": host, "boot": host}
    lease._now = lambda folder: now()
    lease._write = write_and_touch
    lease._Heartbeat._renew = lambda self: touch(self._lease.path)


def main() -> None:
    host, skew, expires, what, *rest = sys.argv[1:]
    become(host, float(skew), float(expires))
    if what == "tileseg":
        from tileseg.cli.main import main as tileseg

        sys.argv = ["tileseg", *rest]
        tileseg()
        return
    lost = threading.Event()
    try:
        with lease.hold(Path(rest[0]), lost.set):
            (Path(rest[0]) / f"held-by-{host}").touch()
            lost.wait()
    except LockedError as error:
        sys.exit(f"tileseg: {error}")


if __name__ == "__main__":
    main()
