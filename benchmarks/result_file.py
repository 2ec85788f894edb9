"""What every benchmark's JSON has besides its figures, and where it is written."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import pfl_flower


def write_result(result: Mapping[str, Any], target: Path | None) -> None:
    """Write a result as JSON to a file, whose folder is made; print it where there is none."""
    text = json.dumps(result, indent=2) + "\n"
    if target is None:
        print(text, end="")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


def surroundings() -> dict[str, Any]:
    """Return what the seconds depend on: date, commit, machine and releases."""
    tree = Path(pfl_flower.__file__).resolve().parents[1]
    releases = {name: version(name) for name in ("flwr", "torch", "numpy")}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git(tree, "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty"),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
            **releases,
        },
    }


def _git(tree: Path, *words: str) -> str:
    command = ["git", "-C", str(tree), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _processor() -> str:
    """Return the processor's name, which Python does not know on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
