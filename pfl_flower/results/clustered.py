"""Results on the groups of clients: files, pictures and a few words."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pfl_flower.results.method_run import MethodRun
from pfl_flower.utils.files import write_bytes, write_csv
from strategies import NO_GROUP, Grouping
from strategies.array_file import array_bytes
from strategies.arrays import view


def sizes_of(grouping: Grouping) -> dict[int, int]:
    """Return group -> number of clients, without those in none; ascending."""
    counts = Counter(grouping.groups.values())
    return {group: counts[group] for group in sorted(counts) if group != NO_GROUP}


def describe_groups(run: MethodRun, personal: bool = False) -> str:
    """Say whose model a client has.

    Parameters
    ----------
    run : MethodRun
        Of a method with groups.
    personal : bool, default False
        Whether a client also has something of its own.
    """
    assert run.grouping is not None
    grouping = run.grouping
    sizes = sizes_of(grouping)
    alone = sum(group == NO_GROUP for group in grouping.groups.values())
    shown = f"there {'is' if len(sizes) == 1 else 'are'} {len(sizes)}, of "
    shown += ", ".join(map(str, sizes.values())) + " clients"
    if not sizes:
        words = "the same model (no client is in a group)"
    elif len(sizes) == 1 and not alone:
        words = "the same model, since all are in one group"
    else:
        words = f"the model of its group ({shown})"
    if personal:
        words = "a model of its own" + (f", around that of its group ({shown})" if sizes else "")
    if not sizes or not alone:
        return words
    have = "is in none and has" if alone == 1 else "are in none and have"
    return f"{words}; {alone} {have} the mean over everybody"


def group_summary(run: MethodRun) -> dict[str, Any]:
    """Return the groups' entry of ``summary.json``; nothing for a method without groups."""
    if run.grouping is None:
        return {}
    return {
        "groups": {
            "sizes": {str(group): size for group, size in sizes_of(run.grouping).items()},
            "in_none": sum(group == NO_GROUP for group in run.grouping.groups.values()),
            "bytes_to_find": {"down": run.grouping.bytes_down, "up": run.grouping.bytes_up},
        }
    }


def write_groups(folder: Path, runs: Sequence[MethodRun]) -> None:
    """Write who is in which group, and by what it was found.

    ``clusters.csv`` (a row a method and assignment of a client, in order: the last one of a client
    counts), ``groups.safetensors`` (the first method's final arrays of every group, as
    ``<group>/<name>``); of methods that find groups by similarities also ``similarity.csv`` and
    the pictures ``similarity.png`` (a heat map), ``dendrogram.png`` and ``clients.png`` (a map),
    with the method's name before it, if it is not the first method of the run. Nothing where no
    method has groups.
    """
    rows = [
        {
            "method": run.method,
            "round": assignment.round,
            "client": assignment.client,
            "group": "" if assignment.group == NO_GROUP else assignment.group,
            "score": "" if np.isnan(assignment.score) else assignment.score,
            "reason": assignment.reason,
        }
        for run in runs
        if run.grouping is not None
        for assignment in run.grouping.assignments
    ]
    if not rows:
        return
    write_csv(folder / "clusters.csv", rows)
    if runs[0].grouping is not None:
        models = {
            f"{group}/{name}": view(array)
            for group, record in runs[0].grouping.models.items()
            for name, array in record.items()
        }
        write_bytes(folder / "groups.safetensors", array_bytes(models))
    for place, run in enumerate(runs):
        if run.grouping is not None and run.grouping.similarity is not None:
            write_similarity(folder, run.grouping, f"{run.method}-" if place else "")


def write_similarity(folder: Path, grouping: Grouping, prefix: str = "") -> None:
    """Write the cosine similarities that groups were found by, and pictures of them."""
    from pfl_flower.plots.clustered import plot_dendrogram, plot_map, plot_similarity

    assert grouping.similarity is not None
    clients = list(grouping.clients)
    groups = [grouping.groups.get(client, NO_GROUP) for client in clients]
    rows = [
        {"client": client, **dict(zip(map(str, clients), values.tolist(), strict=True))}
        for client, values in zip(clients, grouping.similarity, strict=True)
    ]
    write_csv(folder / f"{prefix}similarity.csv", rows)
    known = (grouping.similarity, clients, groups)
    plot_similarity(*known, folder / f"{prefix}similarity.png")
    plot_dendrogram(*known, folder / f"{prefix}dendrogram.png")
    plot_map(*known, list(grouping.examples), folder / f"{prefix}clients.png")
