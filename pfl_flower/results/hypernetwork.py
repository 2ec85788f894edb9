"""What a run with a hypernetwork leaves behind: the network, and the clients' metadata."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pfl_flower.utils.files import write_bytes, write_csv

if TYPE_CHECKING:
    from pfl_flower.results.method_run import MethodRun


def write_hypernetwork(folder: Path, runs: Sequence["MethodRun"]) -> None:
    """Write ``hypernetwork.safetensors`` and ``metadata.csv``.

    The first is the first method's hypernetwork, if it has one; the second has a row a method and
    client, with what the client reported of itself.
    """
    if runs[0].hypernetwork is not None:
        write_bytes(folder / "hypernetwork.safetensors", runs[0].hypernetwork.to_bytes())
    rows = [
        {"method": run.method, "client": client}
        | {f"metadata.{name}": value for name, value in metadata.items()}
        for run in runs
        for client, metadata in sorted(run.metadata.items())
    ]
    if rows:
        write_csv(folder / "metadata.csv", rows)
