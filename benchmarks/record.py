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

SHORT = {
    "num-server-rounds": 3,
    "local-epochs": 1,
    "baselines": "",
    "max-examples": 40,
    "model": "mlp",
    "seed": 3,
}
GRAPH = {"model": "auto", "max-examples": 0, "num-server-rounds": 2, "learning-rate": 0.05}


def runs(folder: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yield the name, the number of clients and the run config of every run.

    Parameters
    ----------
    folder : Path
        For data of one's own.
    """
    taste = {"heterogeneity": "taste"}
    skewed = {"heterogeneity": "none", "partition": "dirichlet", "alpha": 0.5, "min-examples": 5}
    yield "partial", 5, {"method": "fedper", "baselines": "fedavg,fedprox,local,fedrep", **taste}
    yield "tuned", 4, {"method": "fedbabu", "baselines": "fedavg-ft,lg-fedavg", **skewed, **taste}
    yield (
        "norm",
        4,
        {"method": "fedbn", "baselines": "fedavg", "model": "cnn", "heterogeneity": "lighting"},
    )
    yield (
        "blocks",
        4,
        {"method": "personal-se", "dataset": "gallery", "model": "auto", "heterogeneity": ""},
    )
    yield "adapters", 4, {"method": "adapters", "model": "auto", **taste}
    yield (
        "ditto",
        4,
        {"method": "ditto", "lambda": "auto", "baselines": "mr-mtl,apfl", **skewed}
        | {"fraction-train": 0.5, "num-server-rounds": 5},
    )
    yield (
        "pfedme",
        4,
        {"method": "pfedme", "baselines": "l2gd", "momentum": 0.0, "learning-rate": 0.05, **skewed},
    )
    yield "tau", 4, {"method": "mr-mtl", "tau": 0.2, "safeguard": True, **skewed}
    stream = {"dataset": "smartwatch", "partition": "natural", "heterogeneity": "none"}
    yield (
        "stream",
        4,
        {"method": "lifelong", "baselines": "fedper", "num-server-rounds": 9, **stream}
        | {"max-examples": 0, "batch-size": 16, "learning-rate": 0.05},
    )
    yield (
        "detected",
        4,
        {"method": "lifelong", "task-changes": "detected", "num-server-rounds": 9, **stream}
        | {"max-examples": 0, "batch-size": 16, "fisher-samples": 2, "learning-rate": 0.05},
    )
    clusters = {"cluster-sizes": "4,4", "max-examples": 30, "min-examples": 15, **taste}
    yield (
        "clusters",
        8,
        {"method": "gradient-clusters", "baselines": "known-groups", "late": 0.2, **clusters}
        | {"unseen": 0.2, "revise-every": 1, "num-server-rounds": 4},
    )
    yield (
        "several",
        8,
        {"method": "ifca", "clusters": 2, "num-server-rounds": 4, "unseen": 0.2, **clusters},
    )
    yield (
        "split",
        8,
        {"method": "cfl", "mean-below": 0.9, "median-above": 0.1, "num-server-rounds": 5}
        | {**clusters, "server-momentum": 0.5},
    )
    yield (
        "spectral",
        8,
        {"method": "gradient-clusters", "clusterer": "spectral", "projection-size": 0, **clusters}
        | {"clusters": 2, "personal": "head"},
    )
    yield (
        "hypernetwork",
        8,
        {"method": "pfedhn", "dataset": "metadata-digits", "heterogeneity": "none", "unseen": 0.2}
        | {"safeguard": True, "baselines": "fedavg,local"},
    )
    yield (
        "linear",
        6,
        {"method": "hierarchical-linear", "dataset": "mixed-effects", "heterogeneity": "none"}
        | {"model": "auto", "unseen": 0.2, "baselines": "local"},
    )
    yield (
        "linear-classes",
        5,
        {"method": "hierarchical-linear", "dataset": "breast-cancer", "heterogeneity": "none"}
        | {"model": "auto", "restricted": False},
    )
    yield (
        "bayes",
        5,
        {"method": "hierarchical-bayes", "posterior-samples": 3, "unseen": 0.2, **taste},
    )
    degraded = {"dataset": "wearables", "partition": "natural", "heterogeneity": "none"}
    degraded |= {"model": "linear", "tiers": "3,3", "noise": "0.1,0.6", "missing": "0,0.2"}
    yield (
        "quality",
        6,
        {"method": "quality-weighted", "imputation": "mean", "corrupted-clients": 1, **degraded}
        | {"baselines": "fedavg", "max-examples": 0},
    )
    yield (
        "errors",
        6,
        {"method": "errors-in-variables", "imputation": "conditional", **degraded}
        | {"max-examples": 0, "missingness": "observed"},
    )
    yield (
        "calibrated",
        6,
        {"method": "fedper", "imputation": "mean", "calibrate-inputs": True, **degraded}
        | {"max-examples": 0},
    )
    yield (
        "masked",
        4,
        {"method": "fedavg", "dataset": "breast-cancer", "missing": 0.2, "imputation": "mask"}
        | {"heterogeneity": "none"},
    )
    social = {"dataset": "social", "partition": "natural", "heterogeneity": "none", **GRAPH}
    yield (
        "communities",
        6,
        {"method": "community-adapters", "baselines": "fedavg-gnn,local-gnn", **social},
    )
    yield (
        "updates",
        6,
        {"method": "community-adapters", "communities": "updates", **social}
        | {"num-server-rounds": 4},
    )
    yield (
        "links",
        5,
        {"method": "community-adapters", "communities": "gradients", "task": "link-prediction"}
        | {**social, "whole-graph": 20, "fanout": 3},
    )
    yield (
        "thresholds",
        5,
        {"method": "fedper", "dataset": "hospitals", "partition": "natural", "threshold": "shrunk"}
        | {"heterogeneity": "none", "validation-fraction": 0.3, "max-examples": 0}
        | {"safeguard": True, "baselines": "fedavg,local"},
    )
    yield (
        "costs",
        4,
        {"method": "fedavg", "dataset": "breast-cancer", "threshold": "platt", "baselines": "local"}
        | {"threshold-metric": "cost", "cost-ratio": 4.0, "heterogeneity": "none"},
    )
    yield (
        "server",
        6,
        {"method": "fedavg", "server-momentum": 0.9, "weighting": "uniform", "model": "cnn"}
        | {"optimizer": "adam", "learning-rate": 0.01, "gradient-clip": 1.0, "drop-last": True}
        | {"fraction-train": 0.5, "norm": "group", "partition": "pathological"},
    )
    yield (
        "schedule",
        4,
        {"method": "fedper", "personal": "head", "schedule": "head-then-body", "mu": 0.1}
        | {"weight-decay": 0.001, "batch-size": 7, "local-steps": 5, "dataset": "diabetes"}
        | {"heterogeneity": "offset", "learning-rate": 0.02},
    )
    own = {"heterogeneity": "none", "model": "mlp", "method": "fedper", "baselines": "local"}
    yield "table", 4, {**own, "dataset": f"table:{_table(folder)}"}
    yield "folder", 3, {**own, "dataset": f"folder:{_folder(folder)}"}
    yield "huggingface", 3, {**own, "dataset": f"huggingface:{_parquet(folder)}"}
    if data := os.environ.get("PFL_DATA_DIR"):
        real = {"data-dir": data, "heterogeneity": ""}
        yield (
            "heart",
            4,
            {"method": "fedavg", "dataset": "heart-disease", "partition": "natural", **real},
        )
        yield (
            "cora",
            4,
            {"method": "community-adapters", "dataset": "cora", "partition": "louvain", **real}
            | {**GRAPH, "communities": "updates"},
        )


def _numbers() -> Any:
    import numpy as np

    return np.random.default_rng(5)


def _table(folder: Path) -> Path:
    draw, path = _numbers(), folder / "table.csv"
    with path.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["client", "b", "a", "label"])
        for i in range(200):
            a, b = draw.normal(size=2)
            rows.writerow([f"clinic-{i % 4}", f"{b:.4f}", f"{a:.4f}", "yes" if a > b else "no"])
    return path


def _folder(folder: Path) -> Path:
    import numpy as np

    draw, path = _numbers(), folder / "own"
    path.mkdir()
    for i in range(3):
        x = draw.normal(size=(60, 5)).astype("float32")
        y = (x[:, 0] > 0).astype("int64")
        parts = {"x_train": x[:40], "y_train": y[:40], "x_test": x[40:], "y_test": y[40:]}
        np.savez(path / f"client-{i}.npz", **parts)
    return path


def _parquet(folder: Path) -> Path:
    import pandas as pd

    draw, path = _numbers(), folder / "hub"
    path.mkdir()
    x = draw.normal(size=(180, 3))
    table = pd.DataFrame(x, columns=list("abc"))
    table["label"] = (x[:, 1] > 0).astype(int)
    table.to_parquet(path / "train.parquet")
    return path


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
        arrays = {n: _digest(a) for n, a in load_file(path).items()}
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
