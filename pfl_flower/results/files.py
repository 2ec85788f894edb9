"""Per-client results on disk, a picture, and a few words."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from clients.inference.class_scores import CLASS_SCORES
from pfl_flower.results.class_scores import describe_scores, score_rows, score_summary
from pfl_flower.results.divergence import divergence
from pfl_flower.results.method_run import MethodRun
from pfl_flower.results.rows import client_rows, round_rows, unseen_rows
from pfl_flower.results.shared_file import write_base, write_shared
from pfl_flower.results.spread import known_spread, of_clients, spread
from pfl_flower.results.streams import STREAM_SCORES, num_phases, stream_scores
from pfl_flower.results.thresholds import (
    describe_thresholds,
    threshold_summary,
    write_thresholds,
)
from pfl_flower.utils.files import file_name, under_home, write_csv, write_json
from pfl_flower.utils.text import commonest
from strategies import ClientReport
from strategies.arrays import view


def summarize(run: MethodRun) -> dict[str, Any]:
    """Return the scores and costs of a method: the entry of ``summary.json``.

    The score is ``accuracy``, or ``rmse`` (and ``r2``) for regression. Its ``clients`` are those
    that have it: accuracy is NaN without examples, and R2 if all targets are equal.

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
    score = run.score.replace("-", "_")
    return {
        "clients": run.num_clients,
        score: known_spread(run.values(), task.higher_is_better),
        f"validation_{score}": known_spread(
            run.values(f"validation-{run.score}"), task.higher_is_better
        ),
        **({"r2": known_spread(run.values("r2"))} if run.score == "rmse" else {}),
        **score_summary(run),
        "bytes_per_round": {
            "down": float(each["train"][0] + each["evaluate"][0] + finding[0]),
            "up": float(each["train"][1] + finding[1]),
        },
        **({"base_bytes": run.base_bytes} if run.base_bytes else {}),
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
    ``summary.json``, ``shared.safetensors`` (the first method's final shared arrays),
    ``base.safetensors`` if the file of first arrays gave a frozen base, and ``accuracy.png``
    (``rmse.png``); ``scores.csv`` (a row a method and score) if clients report further scores,
    ``unseen.csv`` if there are unseen clients, and ``stream.csv`` (a row a method and client) if
    data came in phases; of methods with groups what :func:`write_groups` writes, of those that
    report shrinkage what :func:`write_shrinkage` does, of those with decision thresholds what
    :func:`write_thresholds` does, of one with a hypernetwork ``hypernetwork.safetensors`` (the
    first method's) and ``metadata.csv``, what clients reported. Each file is written whole or not
    at all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", runs[0].config.dump())
    write_csv(folder / "clients.csv", [row for run in runs for row in client_rows(run)])
    write_csv(folder / "rounds.csv", [row for run in runs for row in round_rows(run)])
    write_json(folder / "summary.json", {run.method: summarize(run) for run in runs})
    if unseen := [row for run in runs for row in unseen_rows(run)]:
        write_csv(folder / "unseen.csv", unseen)
    if scores := [row for run in runs for row in score_rows(run)]:
        write_csv(folder / "scores.csv", scores)
    streams = [
        {"method": run.method, "client": client, **scores}
        for run in runs
        for client, scores in stream_scores(run).items()
    ]
    if streams:
        write_csv(folder / "stream.csv", streams)
    arrays = {name: view(array) for name, array in runs[0].arrays.items()}
    write_shared(folder, arrays, runs[0].config.required_schema, runs[0].base)
    if runs[0].given_base:
        write_base(folder, runs[0].given_base)
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
    lines += untrained(first)
    lines += [words for run in runs if (words := divergence(run.config, _last_training(run)))]
    lines += describe_scores(first)
    lines += describe_thresholds(first)
    lines += [_against(first, other) for other in runs[1:]]
    return lines + [f"Left out: {words}" for words in first.left_out]


def untrained(run: MethodRun) -> list[str]:
    """Say how many clients are scored with a personal part that never trained; [] if none is.

    With a small ``fraction-train`` and few rounds many are, and their scores are those of the first
    values.
    """
    trained = {r.client for r in run.reports if r.phase == "train" and not r.dropped}
    never = [client for client in run.by_client() if client not in trained]
    if not never or not run.parameters["personal"]:
        return []
    return [
        f"{len(never)} of {len(run.by_client())} clients never trained (fraction-train, or they "
        "failed): what is personal has its first values there, and they count in these scores. "
        "More rounds reach more of them."
    ]


def _last_training(run: MethodRun) -> list[ClientReport]:
    """Return the reports of the last round of training."""
    trained = [report for report in run.reports if report.phase == "train"]
    last = max((report.round for report in trained), default=0)
    return [report for report in trained if report.round == last]


def describe_model(run: MethodRun, personal: bool) -> str:
    """Say whose model a client has."""
    return "a model of its own" if personal else "the same model"


def _quality(run: MethodRun) -> str:
    """Say how good the clients' models are."""
    task = run.config.client_task
    scores, over = spread(run.values(), task.higher_is_better), of_clients(run.values())
    if run.score == "accuracy":
        return (
            f"On its own test examples it is right {scores['mean']:.1%} of the time{over} "
            f"(standard deviation over clients {scores['std']:.1%}, worst tenth "
            f"{scores['worst_tenth']:.1%})."
        )
    if run.score == "auc":
        return (
            f"On its own test examples it ranks a link above another pair {scores['mean']:.1%} of "
            f"the time{over} (area under the curve; standard deviation over clients "
            f"{scores['std']:.1%}, worst tenth {scores['worst_tenth']:.1%})."
        )
    if run.score in CLASS_SCORES:
        return (
            f"On its own test examples its {CLASS_SCORES[run.score].name} is {scores['mean']:.1%}"
            f"{over} (standard deviation over clients {scores['std']:.1%}, worst tenth "
            f"{scores['worst_tenth']:.1%})."
        )
    r2 = run.values("r2")
    return (
        f"On its own test examples it is off by {scores['mean']:.4g}{over} (root mean squared "
        f"error; standard deviation over clients {scores['std']:.4g}, worst tenth "
        f"{scores['worst_tenth']:.4g}); R2 is {spread(r2)['mean']:.2f} on average{of_clients(r2)}."
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
    both = [c for c in own if c in theirs and not np.isnan(own[c] + theirs[c])]
    if not both:
        return f"Against {other.method}: no client has a score under both."
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
