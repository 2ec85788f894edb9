"""CPU seconds of a process together with all that it has started, as Linux counts them."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc/self/stat")
_SPENT = slice(11, 15)
"""utime, stime, cutime and cstime (of children that ended) in what follows a process's name."""


def cpu_here() -> float:
    """Return the CPU seconds of this process and of all that it has started.

    Without Linux, of what it started only what has ended counts.
    """
    own = os.times()
    if not _PROC.exists():
        return time.process_time() + own.children_user + own.children_system
    ticks = own.user + own.system  # of this process, which process_time knows more exactly
    return time.process_time() + cpu_seconds(os.getpid()) - ticks


def cpu_seconds(process: int) -> float:
    """Return the CPU seconds that a process and its descendants have used, ended ones included.

    The resolution is that of the kernel's clock, mostly a hundredth of a second. A descendant
    whose parent ended before it is not found.

    Parameters
    ----------
    process : int
        Its number.

    Raises
    ------
    OSError
        If this is not Linux.
    """
    if not _PROC.exists():
        raise OSError(f"CPU seconds of other processes are read from {_PROC.parent}: use Linux")
    return sum(_own(each) for each in _family(process))


def _family(process: int) -> Iterator[int]:
    """Yield a process and those that descend from it."""
    yield process
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            found = children.read_text().split()
        except OSError:
            continue  # the thread has ended since
        for child in found:
            yield from _family(int(child))


def _own(process: int) -> float:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return 0.0  # ended since: it counts as one of its parent's ended children
    fields = stat.rpartition(")")[2].split()
    return sum(map(int, fields[_SPENT])) / os.sysconf("SC_CLK_TCK")
