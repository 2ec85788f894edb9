"""The runs that :mod:`record` plays: together they touch every method, data source and feature."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SHORT = {
    "num-server-rounds": 3,
    "local-epochs": 1,
    "baselines": "",
    "max-examples": 40,
    "model": "mlp",
    "seed": 3,
}
NO_EPOCHS = {"local-epochs": 2}
"""The default, where epochs have no effect, and another number would be refused."""
GRAPH = {"model": "auto", "max-examples": 0, "num-server-rounds": 2, "learning-rate": 0.05}


def runs(folder: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yield the name, the number of clients and the run config of every run.

    It is a list, long as it is: taken apart, nobody would see what is covered.

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
        | {"model": "auto", "restricted": False, **NO_EPOCHS},
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
        | {"max-examples": 0, "missingness": "observed", **NO_EPOCHS},
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
        | {"heterogeneity": "offset", "learning-rate": 0.02, **NO_EPOCHS},
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
