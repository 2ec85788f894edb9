"""Per-client results on disk, a picture, and a few words."""

import csv
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from pfl_flower.census import commonest
from pfl_flower.config import under_home
from pfl_flower.federation import MethodRun
from strategies.arrays import view


def worst_tenth(values: Sequence[float] | np.ndarray) -> float:
    """Return the mean of the lowest tenth of the values (at least one of them)."""
    ordered = np.sort(np.asarray(values, dtype=float))
    return float(ordered[: math.ceil(len(ordered) / 10)].mean()) if len(ordered) else math.nan


def spread(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Return mean, standard deviation and worst tenth over clients; NaN without clients.

    A client without the metric (NaN, such as a validation accuracy without validation examples)
    is left out.
    """
    found = np.asarray(values, dtype=float)
    found = found[~np.isnan(found)]
    if not len(found):
        return {"mean": math.nan, "std": math.nan, "worst_tenth": math.nan}
    return {
        "mean": float(found.mean()),
        "std": float(found.std()),
        "worst_tenth": worst_tenth(found),
    }


def summarize(run: MethodRun) -> dict[str, Any]:
    """Return the scores and costs of a method: the entry of ``summary.json``.

    ``bytes_per_round`` are payload bytes of the arrays of one client in a round in which it
    trains: down for training and for evaluation, up from training.
    """
    rounds = run.config.num_server_rounds
    sizes = {
        phase: [
            (r.bytes_down, r.bytes_up) for r in run.reports if (r.phase, r.dropped) == (phase, "")
        ]
        for phase in ("train", "evaluate")
    }
    each = {p: np.mean(s, axis=0) if s else np.zeros(2) for p, s in sizes.items()}
    return {
        "clients": run.num_clients,
        "accuracy": spread(run.values()),
        "validation_accuracy": spread(run.values("validation-accuracy")),
        "bytes_per_round": {
            "down": float(each["train"][0] + each["evaluate"][0]),
            "up": float(each["train"][1]),
        },
        "parameters": run.parameters,
        "seconds_per_round": run.seconds / rounds,
        "dropped_replies": sum(bool(report.dropped) for report in run.reports),
    }


def write(folder: Path, runs: Sequence[MethodRun]) -> None:
    """Write everything about a run, and its baselines, into ``folder``.

    ``config.json``, ``rounds.csv``, ``clients.csv`` (a row a method, client and round),
    ``summary.json``, ``shared.safetensors`` (the first method's final shared arrays) and
    ``accuracy.png``. Each file is written whole or not at all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", runs[0].config.dump())
    write_csv(folder / "clients.csv", [row for run in runs for row in _client_rows(run)])
    write_csv(folder / "rounds.csv", [row for run in runs for row in _round_rows(run)])
    write_json(folder / "summary.json", {run.method: summarize(run) for run in runs})
    arrays = {name: np.array(view(array)) for name, array in runs[0].arrays.items()}
    write_bytes(folder / "shared.safetensors", save(arrays))
    from pfl_flower.plots import plot_clients  # matplotlib takes a second to import

    plot_clients({run.method: run.values() for run in runs}, folder / "accuracy.png")


def describe(runs: Sequence[MethodRun]) -> list[str]:
    """Say in words what the clients of the first method got, and what that bought them."""
    first = runs[0]
    own = first.by_client()
    if not own:
        reason = commonest(r.dropped for r in first.reports if r.phase == "evaluate")
        return [f"{first.method}: no client could be evaluated: {reason}"]
    scores = spread(list(own.values()))
    personal = first.parameters["personal"] or first.config.fine_tuning
    lines = [
        f"{first.method}: {_everyone(len(own), first.num_clients)} "
        f"{'a model of its own' if personal else 'the same model'}. On its own test examples it "
        f"is right {scores['mean']:.1%} of the time (standard deviation over clients "
        f"{scores['std']:.1%}, worst tenth {scores['worst_tenth']:.1%})."
    ]
    for other in runs[1:]:
        theirs = other.by_client()
        both = [client for client in own if client in theirs]
        if not both:
            lines.append(f"Against {other.method}: no client was evaluated under both.")
            continue
        gains = np.array([own[client] - theirs[client] for client in both])
        mean = float(np.mean([theirs[client] for client in both]))
        lines.append(
            f"Against {other.method} ({other.config.row.summary}): {mean:.1%}, so "
            f"{first.method} is {abs(gains.mean()) * 100:.1f} points "
            f"{'better' if gains.mean() >= 0 else 'worse'} on average, better for "
            f"{int((gains > 0).sum())} of {len(both)} clients and worse for "
            f"{int((gains < 0).sum())}."
        )
    return lines


def _everyone(evaluated: int, asked: int) -> str:
    if evaluated == asked:
        return f"every one of {asked} clients has"
    return f"{evaluated} of {asked} clients (the others could not be evaluated) have"


def results_folder(stated: str, name: str) -> Path:
    """Return a new folder for a run's results; a relative one is under the home folder."""
    base = under_home(stated or "pfl-flower-results")
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = base / f"{stamp}-{name}"
    number = 1
    while folder.exists():
        number += 1
        folder = base / f"{stamp}-{name}-{number}"
    folder.mkdir(parents=True)
    return folder


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: a temporary name, then a rename."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; NaN becomes null, which every reader of JSON knows."""
    write_bytes(path, (json.dumps(_plain(content), indent=2) + "\n").encode())


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV atomically; columns in the order in which they first occur."""
    import io

    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def _plain(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def _client_rows(run: MethodRun) -> list[dict[str, Any]]:
    rows: dict[tuple[int, int, int], dict[str, Any]] = {}
    for report in run.reports:
        key = (report.round, report.client, report.node_id)
        row = rows.setdefault(
            key,
            {"method": run.method, "round": report.round, "client": report.client}
            | {"node": report.node_id, "bytes_down": 0, "bytes_up": 0, "dropped": ""},
        )
        row["bytes_down"] += report.bytes_down
        row["bytes_up"] += report.bytes_up
        row["dropped"] = "; ".join(filter(None, (row["dropped"], report.dropped)))
        for name, value in ({} if report.dropped else report.metrics).items():
            prefix = f"{report.phase}-" if name == "num-examples" else ""
            if name != "partition-id":
                row[(prefix + name).replace("-", "_")] = value
    return [rows[key] for key in sorted(rows)]


def _round_rows(run: MethodRun) -> list[dict[str, Any]]:
    rows = []
    for server_round in sorted({report.round for report in run.reports}):
        reports = [report for report in run.reports if report.round == server_round]
        accuracy = spread(run.values("accuracy", server_round))
        validation = spread(run.values("validation-accuracy", server_round))
        losses = [r.metrics["train-loss"] for r in reports if "train-loss" in r.metrics]
        rows.append(
            {
                "method": run.method,
                "round": server_round,
                "accuracy": accuracy["mean"],
                "accuracy_std": accuracy["std"],
                "accuracy_worst_tenth": accuracy["worst_tenth"],
                "validation_accuracy": validation["mean"],
                "train_loss": spread(losses)["mean"],
                "clients_trained": sum(r.phase == "train" and not r.dropped for r in reports),
                "clients_evaluated": sum(r.phase == "evaluate" and not r.dropped for r in reports),
                "dropped": sum(bool(r.dropped) for r in reports),
                "bytes_down": sum(r.bytes_down for r in reports),
                "bytes_up": sum(r.bytes_up for r in reports),
            }
        )
    return rows
