"""Rows of the tables that a run leaves: per client and round, per round, per unseen client."""

from typing import Any

from clients.local_training.adaptation import ALL
from pfl_flower.results.method_run import MethodRun, by_round, select
from pfl_flower.results.spread import spread
from strategies.protocol import GROUP


def client_rows(run: MethodRun) -> list[dict[str, Any]]:
    """Return one row per round and client."""
    rows: dict[tuple[int, int, int], dict[str, Any]] = {}
    for report in run.reports:
        key = (report.round, report.client, report.node_id)
        row = rows.setdefault(
            key,
            {"method": run.method, "round": report.round, "client": report.client}
            | named(run, report.client)
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


def named(run: MethodRun, client: int) -> dict[str, str]:
    """Return a column with the client's own name, where clients of the run have names."""
    return {"name": run.names.get(client, "")} if run.names else {}


def unseen_rows(run: MethodRun) -> list[dict[str, Any]]:
    """Return one row per method, number of local examples and unseen client."""
    return [
        {
            "method": run.method,
            "local_examples": "all" if examples == ALL else examples,
            "client": report.client,
            **named(run, report.client),
            run.score.replace("-", "_"): "" if report.dropped else report.metrics[run.score],
            **({"group": report.metrics.get(GROUP, "")} if run.grouping else {}),
            "dropped": report.dropped,
        }
        for examples, reports in run.unseen.items()
        for report in reports
    ]


def round_rows(run: MethodRun) -> list[dict[str, Any]]:
    """Return one row per round."""
    rows, higher = [], run.config.client_task.higher_is_better
    for server_round, reports in by_round(run.reports).items():
        test, validation = (
            spread(list(select(reports, metric, server_round).values()), higher)
            for metric in (run.score, f"validation-{run.score}")
        )
        used = [r.metrics for r in reports if not r.dropped]
        score = run.score.replace("-", "_")
        losses = [metrics["train-loss"] for metrics in used if "train-loss" in metrics]
        rows.append(
            {
                "method": run.method,
                "round": server_round,
                score: test["mean"],
                f"{score}_std": test["std"],
                f"{score}_worst_tenth": test["worst_tenth"],
                f"validation_{score}": validation["mean"],
                "train_loss": spread(losses)["mean"],
                "clients_trained": sum(r.phase == "train" and not r.dropped for r in reports),
                "clients_evaluated": sum(r.phase == "evaluate" and not r.dropped for r in reports),
                "dropped": sum(bool(r.dropped) for r in reports),
                "bytes_down": sum(r.bytes_down for r in reports),
                "bytes_up": sum(r.bytes_up for r in reports),
            }
        )
    return rows
