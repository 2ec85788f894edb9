"""What tests of runs on graphs share."""

SMALL = {
    "dataset": "social",
    "partition": "natural",
    "baselines": "",
    "num-server-rounds": 2,
    "local-epochs": 2,
    "optimizer": "adam",
    "learning-rate": 0.01,
    "seed": 100,
}


def metrics_of(run, without=("group",), inside=range(99)):
    """What every client reported in every phase and round, as text, in which NaN equals NaN."""
    return [
        (r.round, r.phase, r.client, r.dropped, repr(reported(r, without)))
        for r in sorted(run.reports, key=lambda r: (r.round, r.phase, r.client))
        if r.client in inside
    ]


def reported(report, without):
    return sorted((name, v) for name, v in report.metrics.items() if name not in without)
