"""What decides every client's data."""

import os
from dataclasses import dataclass, fields
from pathlib import Path

from pfl_flower.data.schema import DataError


@dataclass(frozen=True)
class DataSettings:
    """What decides every client's data: hashable, so that data can be cached by it.

    Attributes
    ----------
    dataset : a key of :data:`pfl_flower.data.SOURCES`, or data of one's own as ``kind:location``
        (see :mod:`pfl_flower.data.readers.registry`)
    partition : a key of :data:`pfl_flower.data.PARTITIONS`; data of one's own are split already
    heterogeneity : comma-separated keys of :data:`pfl_flower.data.HETEROGENEITIES`, or ``"none"``
    task : ``"classification"``, ``"regression"`` or ``"auto"``: by the kind of the targets; of a
        graph also ``"link-prediction"``: of its connections, whatever the targets
    client_column, label_column : of a table or a data set of Hugging Face; empty for ``client``
        and ``label`` in a table, and for what the data set itself says
    alpha : concentration of ``dirichlet``; smaller is more skewed
    classes_per_client : of ``pathological``
    min_examples, max_examples : quantity skew: each client keeps at most a number of training
        examples of its own, log-uniform between these; 0 and 0 for no limit. Where links are
        predicted it is one of connections, and others are not passed on, either
    validation_fraction, test_fraction : of each client's examples
    phases : where examples come as a stream of phases, ``"stream"`` for one phase after another,
        ``"joint"`` for all of them from the start; without effect on other data
    cluster_sizes : sizes of clusters, separated by commas; the clients of a cluster have the same
        ``heterogeneity``. Empty: every client has its own
    tiers : sizes of tiers of devices, separated by commas, such as ``8,1,1``; empty: as even as can
        be, as many as the next four have numbers
    missing : share of values that are missing, see
        :class:`pfl_flower.data.degradation.devices.Device`: one number, or one a tier, separated by
        commas; empty: 0
    missingness : which ones, a key of :data:`pfl_flower.data.degradation.devices.MISSINGNESS`
    noise : deviation of the error of a reading, one number or one a tier
    stuck : share of the features that are stuck, one number or one a tier
    clipped : readings beyond plus or minus this are clipped, one number or one a tier; 0: none
    corrupted_clients : number of clients whose readings are nothing but noise, and who state they
        are perfect
    imputation : what takes the place of missing values, a key of
        :data:`pfl_flower.data.degradation.imputation.IMPUTATIONS`
    calibrate_inputs : whether each client replaces readings by the expected true values, by the
        noise that is stated of its device
    descriptions : what generated clients tell of themselves: their ``"own"`` description, or that
        of any other client (``"shuffled"``)
    seed, data_dir, download : see the run config
    """

    dataset: str = "digits"
    partition: str = "iid"
    heterogeneity: str = "none"
    task: str = "auto"
    client_column: str = ""
    label_column: str = ""
    alpha: float = 0.5
    classes_per_client: int = 2
    min_examples: int = 0
    max_examples: int = 0
    validation_fraction: float = 0.1
    test_fraction: float = 0.25
    phases: str = "stream"
    cluster_sizes: str = ""
    tiers: str = ""
    missing: str = ""
    missingness: str = "random"
    noise: str = ""
    stuck: str = ""
    clipped: str = ""
    corrupted_clients: int = 0
    imputation: str = "none"
    calibrate_inputs: bool = False
    descriptions: str = "own"
    seed: int = 0
    data_dir: str = ""
    download: bool = False

    def describe(self) -> str:
        """Say what decides which examples a client has, e.g. in a personal file."""
        skip = ("data_dir", "download")
        values = [(f.name, getattr(self, f.name)) for f in fields(self) if f.name not in skip]
        return " ".join(f"{name.replace('_', '-')}={value}" for name, value in values)


def data_directory(stated: str) -> Path | None:
    """Return the data folder: the one stated, else ``$PFL_DATA_DIR``, else None."""
    text = stated or os.environ.get("PFL_DATA_DIR", "")
    return Path(text).expanduser() if text else None


def default_cache() -> Path:
    """Return the folder for downloaded and unpacked data."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "pfl-flower"


def find(location: str, stated: str) -> Path:
    """Return the file or folder that a user named.

    One that is not absolute is looked for in the data folder, the working directory and the home
    folder, in this order. (``flwr run`` has a working directory that the user does not know.)

    Raises
    ------
    DataError
        If it is nowhere.
    """
    path = Path(location).expanduser()
    bases = [base for base in (data_directory(stated), Path.cwd(), Path.home()) if base]
    tried = [path] if path.is_absolute() else [base / path for base in bases]
    for candidate in tried:
        if candidate.exists():
            return candidate
    raise DataError(f"{location!r} was not found; looked for {', '.join(map(str, tried))}")
