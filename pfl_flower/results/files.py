"""Per-client results on disk, a picture, and a few words."""

import math
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from clients.adaptation import ALL
from pfl_flower.results.lifelong import STREAM_SCORES, num_phases, stream_scores
from pfl_flower.results.method_run import MethodRun, by_round, select
from pfl_flower.results.thresholds import (
    describe_thresholds,
    threshold_summary,
    write_thresholds,
)
from pfl_flower.utils.files import file_name, under_home, write_bytes, write_csv, write_json
from pfl_flower.utils.text import commonest
from strategies.array_file import array_bytes
from strategies.arrays import view
from strategies.protocol import GROUP


def worst_tenth(values: Sequence[float] | np.ndarray, higher_is_better: bool = True) -> float:
    """Return the mean of the worst tenth of the values (at least one of them)."""
    ordered = np.sort(np.asarray(values, dtype=float))
    ordered = ordered if higher_is_better else ordered[::-1]
    return float(ordered[: math.ceil(len(ordered) / 10)].mean()) if len(ordered) else math.nan


def spread(values: Sequence[float] | np.ndarray, higher_is_better: bool = True) -> dict[str, float]:
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
        "worst_tenth": worst_tenth(found, higher_is_better),
    }


def summarize(run: MethodRun) -> dict[str, Any]:
    """Return the scores and costs of a method: the entry of ``summary.json``.

    The score is ``accuracy``, or ``rmse`` (and ``r2``) for regression.

    ``bytes_per_round`` are payload bytes of the arrays of one client in a round in which it
    trains: down for training and for evaluation, up from training. What finding groups takes is
    spread over all rounds and clients.
    """
    rounds = run.config.num_server_rounds
    sizes = {
        phase: [
            (r.bytes_down, r.bytes_up) for r in run.reports if (r.phase, r.dropped) == (phase, "")
        ]
        for phase in ("train", "evaluate")
    }
    each = {p: np.mean(s, axis=0) if s else np.zeros(2) for p, s in sizes.items()}
    finding = np.array(run.query_bytes) / (rounds * max(1, run.num_clients))
    task = run.config.client_task
    return {
        "clients": run.num_clients,
        run.score: spread(run.values(), task.higher_is_better),
        f"validation_{run.score}": spread(
            run.values(f"validation-{run.score}"), task.higher_is_better
        ),
        **({"r2": spread(run.values("r2"))} if run.score == "rmse" else {}),
        "bytes_per_round": {
            "down": float(each["train"][0] + each["evaluate"][0] + finding[0]),
            "up": float(each["train"][1] + finding[1]),
        },
        "parameters": run.parameters,
        "seconds_per_round": run.seconds / rounds,
        **_stream_summary(run),
        **({"edges": {"kept": run.edges[0], "dropped": run.edges[1]}} if run.edges else {}),
        **(run.config.row.summarize(run) if run.config.row.summarize else {}),
        **threshold_summary(run),
        "left_out": list(run.left_out),
        "dropped_replies": sum(bool(report.dropped) for report in run.reports),
    }


def _stream_summary(run: MethodRun) -> dict[str, Any]:
    """Return mean and deviation over clients of what they learnt, kept and forgot of a stream."""
    scores = stream_scores(run)
    if not scores:
        return {}
    summary = {}
    for name in STREAM_SCORES:
        values = np.array([score[name] for score in scores.values()])
        summary[name] = {"mean": float(values.mean()), "std": float(values.std())}
    return {"stream": summary}


def write(folder: Path, runs: Sequence[MethodRun]) -> None:
    """Write everything about a run, and its baselines, into ``folder``.

    ``config.json``, ``rounds.csv``, ``clients.csv`` (a row a method, client and round),
    ``summary.json``, ``shared.safetensors`` (the first method's final shared arrays) and
    ``accuracy.png`` (``rmse.png``); ``unseen.csv`` if there are unseen clients, and
    ``stream.csv`` (a row a method and client) if data came in phases; of methods with groups what
    :func:`write_groups` writes, of those that report shrinkage what :func:`write_shrinkage` does,
    of those with decision thresholds what :func:`write_thresholds` does,
    of one with a hypernetwork ``hypernetwork.safetensors`` (the first method's) and
    ``metadata.csv``, what clients reported. Each file is written whole or not at all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", runs[0].config.dump())
    write_csv(folder / "clients.csv", [row for run in runs for row in _client_rows(run)])
    write_csv(folder / "rounds.csv", [row for run in runs for row in _round_rows(run)])
    write_json(folder / "summary.json", {run.method: summarize(run) for run in runs})
    if unseen := [row for run in runs for row in _unseen_rows(run)]:
        write_csv(folder / "unseen.csv", unseen)
    streams = [
        {"method": run.method, "client": client, **scores}
        for run in runs
        for client, scores in stream_scores(run).items()
    ]
    if streams:
        write_csv(folder / "stream.csv", streams)
    arrays = {name: view(array) for name, array in runs[0].arrays.items()}
    write_bytes(folder / "shared.safetensors", array_bytes(arrays))
    for write_own in dict.fromkeys(run.config.row.write for run in runs):
        if write_own is not None:
            write_own(folder, runs)
    write_thresholds(folder, runs)
    from pfl_flower.plots.client_plots import plot_clients  # matplotlib takes a second to import

    values = {run.method: run.values() for run in runs}
    plot_clients(values, folder / f"{runs[0].score}.png", runs[0].score)


def describe(runs: Sequence[MethodRun]) -> list[str]:
    """Say in words what the clients of the first method got, and what that bought them."""
    first = runs[0]
    own = first.by_client()
    if not own:
        reason = commonest(r.dropped for r in first.reports if r.phase == "evaluate")
        return [f"{first.method}: no client could be evaluated: {reason}"]
    personal = bool(first.parameters["personal"] or first.config.fine_tuning)
    say = first.config.row.describe or describe_model
    lines = [
        f"{first.method}: {_everyone(len(own), first.num_clients)} {say(first, personal)}. "
        f"{_quality(first)}{_remembered(first)}"
    ]
    lines += describe_thresholds(first)
    lines += [_against(first, other) for other in runs[1:]]
    return lines + [f"Left out: {words}" for words in first.left_out]


def describe_model(run: MethodRun, personal: bool) -> str:
    """Say whose model a client has."""
    return "a model of its own" if personal else "the same model"


def _quality(run: MethodRun) -> str:
    """Say how good the clients' models are."""
    task = run.config.client_task
    scores = spread(run.values(), task.higher_is_better)
    if run.score == "accuracy":
        return (
            f"On its own test examples it is right {scores['mean']:.1%} of the time (standard "
            f"deviation over clients {scores['std']:.1%}, worst tenth {scores['worst_tenth']:.1%})."
        )
    if run.score == "auc":
        return (
            f"On its own test examples it ranks a link above another pair {scores['mean']:.1%} of "
            f"the time (area under the curve; standard deviation over clients "
            f"{scores['std']:.1%}, worst tenth {scores['worst_tenth']:.1%})."
        )
    return (
        f"On its own test examples it is off by {scores['mean']:.4g} (root mean squared error; "
        f"standard deviation over clients {scores['std']:.4g}, worst tenth "
        f"{scores['worst_tenth']:.4g}); R2 is {spread(run.values('r2'))['mean']:.2f} on average."
    )


def _remembered(run: MethodRun) -> str:
    """Say what was learnt and forgotten of a stream; nothing where there is none."""
    found = _stream_summary(run).get("stream")
    if not found or np.isnan(found["forgetting"]["mean"]):
        return ""
    return (
        f" Of {num_phases(run)} phases each is known {found['plasticity']['mean']:.1%} when just "
        f"learnt and {found['average_accuracy']['mean']:.1%} in the end; "
        f"{100 * found['forgetting']['mean']:.1f} points of the earlier ones are forgotten."
    )


def _against(first: MethodRun, other: MethodRun) -> str:
    """Say what the first method bought its clients, compared with another."""
    own, theirs = first.by_client(), other.by_client()
    both = [client for client in own if client in theirs]
    if not both:
        return f"Against {other.method}: no client was evaluated under both."
    sign = 1 if first.config.client_task.higher_is_better else -1
    gains = sign * np.array([own[client] - theirs[client] for client in both])
    mean = float(np.mean([theirs[client] for client in both]))
    percent = first.score != "rmse"
    size = f"{abs(gains.mean()) * 100:.1f} points" if percent else f"{abs(gains.mean()):.4g}"
    return (
        f"Against {other.method}{_about(first, other)}: "
        f"{f'{mean:.1%}' if percent else f'{mean:.4g}'}, so {first.method} is {size} "
        f"{'better' if gains.mean() >= 0 else 'worse'} on average, better for "
        f"{int((gains > 0).sum())} of {len(both)} clients and worse for {int((gains < 0).sum())}."
    )


def _about(first: MethodRun, other: MethodRun) -> str:
    if not other.label:
        return f" ({other.config.row.summary})"
    chosen = Counter(int(place) for place in other.by_client("chosen").values())
    own = chosen.pop(0, 0)
    return f" ({own} clients stay with {first.method}, {chosen.total()} fall back)"


def _everyone(evaluated: int, asked: int) -> str:
    if evaluated == asked:
        return f"every one of {asked} clients has"
    return f"{evaluated} of {asked} clients (the others could not be evaluated) have"


def results_folder(given: str, name: str) -> Path:
    """Return a new folder for a run's results; a relative one is under the home folder."""
    base, name = under_home(given or "pfl-flower-results"), file_name(name)
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = base / f"{stamp}-{name}"
    number = 1
    while folder.exists():
        number += 1
        folder = base / f"{stamp}-{name}-{number}"
    folder.mkdir(parents=True)
    return folder


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


def _unseen_rows(run: MethodRun) -> list[dict[str, Any]]:
    """Return a row a method, number of local examples and unseen client."""
    return [
        {
            "method": run.method,
            "local_examples": "all" if examples == ALL else examples,
            "client": report.client,
            run.score: "" if report.dropped else report.metrics[run.score],
            **({"group": report.metrics.get(GROUP, "")} if run.grouping else {}),
            "dropped": report.dropped,
        }
        for examples, reports in run.unseen.items()
        for report in reports
    ]


def _round_rows(run: MethodRun) -> list[dict[str, Any]]:
    rows, higher = [], run.config.client_task.higher_is_better
    for server_round, reports in by_round(run.reports).items():
        test, validation = (
            spread(list(select(reports, metric, server_round).values()), higher)
            for metric in (run.score, f"validation-{run.score}")
        )
        losses = [r.metrics["train-loss"] for r in reports if "train-loss" in r.metrics]
        rows.append(
            {
                "method": run.method,
                "round": server_round,
                run.score: test["mean"],
                f"{run.score}_std": test["std"],
                f"{run.score}_worst_tenth": test["worst_tenth"],
                f"validation_{run.score}": validation["mean"],
                "train_loss": spread(losses)["mean"],
                "clients_trained": sum(r.phase == "train" and not r.dropped for r in reports),
                "clients_evaluated": sum(r.phase == "evaluate" and not r.dropped for r in reports),
                "dropped": sum(bool(r.dropped) for r in reports),
                "bytes_down": sum(r.bytes_down for r in reports),
                "bytes_up": sum(r.bytes_up for r in reports),
            }
        )
    return rows
