"""Record what the code computes, to the bit, and compare two records.

Moving and renaming code must not change a single number. This script makes short runs in process
that together touch every method, kind of data and feature, and writes down every number that they
leave: CSV and JSON files without seconds, and digests of all arrays. Bits depend on the machine and
on the releases of torch and numpy, so a record is made of both commits on the same machine and is
never committed::

    git worktree add /tmp/before 351bb59
    python benchmarks/record.py make /tmp/after.json
    python benchmarks/record.py make /tmp/before.json --tree /tmp/before
    python benchmarks/record.py compare /tmp/before.json /tmp/after.json

Runs are written with today's names; ``RENAMED`` translates them for the older commit, and the older
record into today's names.
"""

import argparse
import contextlib
import csv
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Any

from recorded_runs import SHORT, runs

RENAMED_KEYS = {
    "cluster-sizes": "tribes",
    "corrupted-clients": "liars",
    "client-metadata": "descriptions",
    "adaptation-steps": "joining-steps",
}
"""Today's key of the run config -> its name at 351bb59."""

RENAMED_VALUES: dict[tuple[str, Any], Any] = {
    ("communities", "declared"): "told",
    ("dataset", "mixed-effects"): "planted",
    ("dataset", "metadata-digits"): "described-digits",
    ("dataset", "metadata-digits-hard"): "described-digits-hard",
    ("dataset", "metadata-regression"): "described-regression",
}
"""(today's key, today's value) -> the value at 351bb59."""

RENAMED_NAMES = {
    "told by the client": "declared by the client",
    "found by its pulls": "found by its update directions",
    "joined by its pulls": "joined by its update directions",
    "is pulled to another community": "goes with another community",
}
"""Name of a column, an entry or a file at 351bb59 -> today's."""

DROPPED_NAMES = frozenset({"isotonic"})
"""Entries of results, and rows of tables with such a value, that were deleted since 351bb59."""


def _old_config(config: Mapping[str, Any]) -> dict[str, Any]:
    old = {}
    for key, value in config.items():
        old[RENAMED_KEYS.get(key, key)] = RENAMED_VALUES.get((key, value), value)
    return old


def make(tree: Path, target: Path, only: str) -> None:
    """Make the record of a tree of code, and write it to a file."""
    sys.path.insert(0, str(tree))
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    is_old = (tree / "pfl_flower" / "methods.py").exists()
    simulate = import_module("pfl_flower.engines").simulate
    write = import_module("pfl_flower.results").write
    record: dict[str, Any] = {}
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        (base / "data").mkdir()
        for title, clients, changes in runs(base / "data"):
            if only and title not in only.split(","):
                continue
            start = time.perf_counter()
            config = {**SHORT, **changes}
            config = _old_config(config) if is_old else config
            results, kept = base / title, base / f"{title}-kept"
            config["personal-dir"] = str(kept)
            try:
                done = simulate(config, clients, folder=results)
            except Exception as error:
                failed.append(title)
                print(f"{title}: {type(error).__name__}: {error}", flush=True)
                continue
            write(results, done)
            record[title] = _read(results, kept)
            print(f"{title}: {time.perf_counter() - start:.1f} s", flush=True)
        if not only or "resume" in only:
            record["resume"] = _resumed(simulate, write, base)
    target.write_text(json.dumps(record, indent=1, sort_keys=True))
    if failed:
        raise SystemExit(f"runs that failed: {', '.join(failed)}")


def _resumed(simulate: Any, write: Any, base: Path) -> dict[str, Any]:
    """Return the record of a run that was interrupted after round 2 and goes on."""
    config = {**SHORT, "method": "fedper", "heterogeneity": "taste", "num-server-rounds": 4}
    results, kept = base / "resumed", base / "resumed-kept"
    config["personal-dir"] = str(kept)

    def stop(news: Any) -> None:
        if news.round == 2:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        simulate(config, 4, progress=stop, folder=results)
    write(results, simulate({**config, "resume": str(results)}, 4, folder=results))
    return _read(results, kept)


OF_THE_RUN = frozenset({"threshold/when"})
"""What a personal file has of the run's name, which is another one each time."""


def _read(results: Path, kept: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    found: dict[str, Any] = {}
    for path in sorted(results.iterdir()):
        if path.suffix == ".csv":
            with path.open(newline="") as stream:
                found[path.name] = [_plain(row) for row in csv.DictReader(stream)]
        elif path.name == "summary.json":
            found[path.name] = _plain(json.loads(path.read_text()))
        elif path.suffix == ".safetensors":
            found[path.name] = {n: _digest(a) for n, a in load_file(path).items()}
    for path in sorted(kept.rglob("*.safetensors")) if kept.is_dir() else ():
        arrays = {n: _digest(a) for n, a in load_file(path).items() if n not in OF_THE_RUN}
        found[f"kept/{path.relative_to(kept)}"] = arrays
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if "seconds" not in k}
    return value


def _digest(array: Any) -> str:
    import numpy as np

    data = np.ascontiguousarray(array)
    return blake2b(data.tobytes(), digest_size=8).hexdigest() + f" {data.dtype} {data.shape}"


def _translated(value: Any) -> Any:
    """Return a part of an old record in today's names."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in DROPPED_NAMES}
        return {RENAMED_NAMES.get(k, k): _translated(v) for k, v in kept.items()}
    if isinstance(value, list):
        return [_translated(item) for item in value if not _is_dropped(item)]
    return RENAMED_NAMES.get(value, value) if isinstance(value, str) else value


def _is_dropped(row: Any) -> bool:
    values = row.values() if isinstance(row, dict) else ()
    return any(isinstance(value, str) and value in DROPPED_NAMES for value in values)


def _differences(old: Any, new: Any, where: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            if name in old and name in new:
                yield from _differences(old[name], new[name], f"{where}/{name}")
            else:
                yield f"{where}/{name}: only in the {'old' if name in old else 'new'} record"
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, pair in enumerate(zip(old, new, strict=True)):
            yield from _differences(*pair, f"{where}[{number}]")
    elif json.dumps(old) != json.dumps(new):
        yield f"{where}: {str(old)[:120]} -> {str(new)[:120]}"


def compare(before: Path, after: Path, most: int = 40) -> int:
    """Print where two records differ; return the exit code."""
    old = _translated(json.loads(before.read_text()))
    found = list(_differences(old, json.loads(after.read_text()), ""))
    for line in found[:most]:
        print(line)
    if len(found) > most:
        print(f"(+{len(found) - most} more)")
    print(f"{len(old)} runs, {len(found)} differences")
    return 1 if found else 0


def main() -> int:
    """Make or compare records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("target", type=Path)
    making.add_argument("--tree", type=Path, default=Path(__file__).resolve().parents[1])
    making.add_argument("--only", default="", help="names of runs, separated by commas")
    comparing = commands.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "make":
        make(arguments.tree.resolve(), arguments.target, arguments.only)
        return 0
    return compare(arguments.before, arguments.after)


if __name__ == "__main__":
    sys.exit(main())
