"""DataSettings, the run keys that decide the data, and where data are looked for."""

import os
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any

from pfl_flower.data.errors import DataError

OF_NODES = ("whole",)
"""What only a node can say of its data of its own; the others are run keys."""

OF_TABLES = (
    *("split_column", "group_column", "time_column", "drop_columns", "feature_columns"),
    *("categories", "min_category"),
)
"""Settings that only a table has a use for; of ``split_column`` one of pictures, too."""

OF_PICTURES = ("path_column", "image_size", "image_channels")
"""Settings that only pictures in files have a use for."""

LATER = ("stratify", "split", *OF_TABLES, *OF_PICTURES)
"""Settings that files with personal state of earlier versions do not name."""


@dataclass(frozen=True)
class DataSettings:
    """The run keys that decide every client's data: hashable, so that data can be cached by it.

    Attributes
    ----------
    dataset : str, default "digits"
        A key of :data:`pfl_flower.data.SOURCES`, or own data as ``kind:location``
        (see :mod:`pfl_flower.data.readers.registry`).
    partition : str, default "iid"
        A key of :data:`pfl_flower.data.PARTITIONS`. Own data are split already.
    heterogeneity : str, default "none"
        Comma-separated keys of :data:`pfl_flower.data.HETEROGENEITIES`, or ``"none"``.
    task : str, default "auto"
        ``"classification"``, ``"regression"`` or ``"auto"``: by the type of the targets. For a
        graph also ``"link-prediction"``, which ignores the targets.
    client_column, label_column : str, default ""
        Columns of a table or a Hugging Face data set. Empty: ``client`` and ``label`` in a table,
        and the data set's own choice in a Hugging Face data set.
    split_column, group_column, time_column : str, default ""
        Columns of a table with the part of each row (train, validation or test), with whose rows
        stay together in one part, and with the time by which ``split="time"`` splits.
    drop_columns, feature_columns : str, default ""
        Comma-separated columns of a table that are no features, or the only ones.
    categories : str, default ""
        Comma-separated features of a table that become columns of 0 and 1; ``"all"`` for all of
        text.
    min_category : int, default 5
        Fewest training rows (with ``group_column`` groups) of a client for it to report a category.
    split : str, default "random"
        ``"random"``, or ``"time"``: the latest rows test, those before them validate.
    path_column : str, default ""
        Column of a table of pictures with the file. Empty: ``path``; ``split_column`` is then
        ``split`` if there is one.
    image_size : int, default 0
        Height and width to which pictures in files are made; 0 as they are.
    image_channels : int, default 0
        1 for grey, 3 for colour; 0: grey if all pictures of a client are.
    alpha : float, default 0.5
        Concentration of the ``dirichlet`` partition; smaller is more skewed.
    classes_per_client : int, default 2
        Number of classes per client of the ``pathological`` partition.
    min_examples, max_examples : int, default 0
        Quantity skew: each client keeps at most a number of training examples, drawn log-uniformly
        between these; 0 and 0 for no limit. For link prediction the limit counts edges, and
        messages do not use the other edges, either.
    validation_fraction, test_fraction : float, default 0.1 and 0.25
        Shares of each client's examples.
    stratify : bool, default False
        Whether each client's examples are split class by class. A class with few examples is then
        in every split that it can be in.
    phases : str, default "stream"
        For data that come as a stream of phases: ``"stream"`` for one phase after another,
        ``"joint"`` for all phases from the start. Without effect on other data.
    cluster_sizes : str, default ""
        Comma-separated sizes of clusters; the clients of a cluster have the same
        ``heterogeneity``. Empty: every client is a cluster.
    tiers : str, default ""
        Comma-separated sizes of device tiers, such as ``8,1,1``. Empty: equal sizes; the number of
        tiers is the number of values that ``missing`` and ``noise`` have.
    missing : str, default ""
        Share of values that are missing, see
        :class:`pfl_flower.data.degradation.devices.Device`: one number, or one per tier, separated
        by commas. Empty: 0.
    missingness : str, default "random"
        Missing-data mechanism, a key of
        :data:`pfl_flower.data.degradation.missingness.MISSINGNESS`.
    noise : str, default ""
        Deviation of the measurement error, one number or one per tier.
    corrupted_clients : int, default 0
        Number of clients whose measurements are pure noise, and which declare them as perfect.
    imputation : str, default "none"
        How missing values are filled in, a key of
        :data:`pfl_flower.data.degradation.imputation.IMPUTATIONS`.
    calibrate_inputs : bool, default False
        Whether each client replaces measurements by the expected true values (regression
        calibration), given the declared noise of its device.
    client_metadata : str, default "own"
        Which metadata generated clients send: their ``"own"``, or those of another client
        (``"shuffled"``).
    seed, data_dir, download : int, str and bool
        See the run config.
    whole : str, default ""
        No run key: the name of a node whose data are all its own, where no column names the client
        of each row.
    """

    dataset: str = "digits"
    partition: str = "iid"
    heterogeneity: str = "none"
    task: str = "auto"
    client_column: str = ""
    label_column: str = ""
    split_column: str = ""
    group_column: str = ""
    time_column: str = ""
    drop_columns: str = ""
    feature_columns: str = ""
    categories: str = ""
    min_category: int = 5
    split: str = "random"
    path_column: str = ""
    image_size: int = 0
    image_channels: int = 0
    alpha: float = 0.5
    classes_per_client: int = 2
    min_examples: int = 0
    max_examples: int = 0
    validation_fraction: float = 0.1
    test_fraction: float = 0.25
    stratify: bool = False
    phases: str = "stream"
    cluster_sizes: str = ""
    tiers: str = ""
    missing: str = ""
    missingness: str = "random"
    noise: str = ""
    corrupted_clients: int = 0
    imputation: str = "none"
    calibrate_inputs: bool = False
    client_metadata: str = "own"
    seed: int = 0
    data_dir: str = ""
    download: bool = False
    whole: str = ""

    def describe(self) -> str:
        """Return all settings that decide which examples a client has, as text ``key=value ...``.

        Files with personal state hold this text. A setting that came later is left out at its
        default, so that files of earlier versions still fit.
        """
        skip = {"data_dir", "download", *OF_NODES}
        skip |= {f.name for f in fields(self) if f.name in LATER and self._is_default(f)}
        values = [(f.name, getattr(self, f.name)) for f in fields(self) if f.name not in skip]
        return " ".join(f"{name.replace('_', '-')}={value}" for name, value in values)

    def _is_default(self, item: "Field[Any]") -> bool:
        return bool(getattr(self, item.name) == item.default)


RUN_KEYS = tuple(item.name for item in fields(DataSettings) if item.name not in OF_NODES)
"""The settings that run keys decide."""


def data_directory(data_dir: str) -> Path | None:
    """Return the data folder: ``data_dir``, else ``$PFL_DATA_DIR``, else None.

    Parameters
    ----------
    data_dir : str
        The run key; empty if it is not set.
    """
    text = data_dir or os.environ.get("PFL_DATA_DIR", "")
    return Path(text).expanduser() if text else None


def default_cache() -> Path:
    """Return the folder for downloaded and unpacked data: ``$XDG_CACHE_HOME/pfl-flower``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "pfl-flower"


def find(location: str, data_dir: str) -> Path:
    """Return the file or folder at a location that a user named.

    A relative location is looked for in the data folder, the working directory and the home
    folder, in this order. (``flwr run`` has a working directory that the user does not know.)

    Parameters
    ----------
    location : str
        Path of the file or folder.
    data_dir : str
        See :func:`data_directory`.

    Raises
    ------
    DataError
        If there is no such file or folder.
    """
    path = Path(location).expanduser()
    bases = [base for base in (data_directory(data_dir), Path.cwd(), Path.home()) if base]
    tried = [path] if path.is_absolute() else [base / path for base in bases]
    for candidate in tried:
        if candidate.exists():
            return candidate
    raise DataError(
        f"{location!r} was not found; looked for {', '.join(map(str, tried))}",
        key="dataset",
        value=location,
        path=str(tried[0]),
        choices=map(str, tried),
    )
