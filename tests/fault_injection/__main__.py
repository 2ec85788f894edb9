"""``python -m tests.fault_injection``: break a federation of real processes on this machine."""

import sys

from rich.console import Console

from tests.fault_injection.command import run

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], Console(width=None if sys.stdout.isatty() else 110)))
