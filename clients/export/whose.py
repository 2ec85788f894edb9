"""Whose a model is: the file of a client by its name, and rows that belong to other clients."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from clients.export.model_card import CLIENT_COLUMN, NAME, ExportError
from clients.state.model_file import SUFFIX, PersonalizedModel, read_about


def file_of(files: Mapping[str, Path], client: str, directory: Path) -> Path:
    """Return the model file of a client.

    Parameters
    ----------
    files : mapping of str to Path
        The model files of a directory, by the names that they begin with.
    client : str
        What a file begins with (``client-6``), its whole name, or the client's own name in the data
        (``Clinic 7``); may be empty if there is one file.
    directory : Path
        The directory.

    Raises
    ------
    ExportError
        If no file is the client's, or several are.
    """
    if not client and len(files) == 1:
        return next(iter(files.values()))
    if client.removesuffix(SUFFIX) in files and client.endswith(SUFFIX):
        return files[client.removesuffix(SUFFIX)]
    names = {file: read_about(path).get(NAME, "") for file, path in files.items()}
    found = [file for file, name in names.items() if client and client in (file, name)]
    if len(found) == 1:
        return files[found[0]]
    listed = ", ".join(f"{file} ({names[file]})" if names[file] else file for file in files)
    choices: Sequence[str] = list(files)
    if not client:
        words = f"{directory} has several models; --client must be one of {listed}"
    elif found:
        choices = [f"{file}{SUFFIX}" for file in found]
        words = f"{client!r} is the name of several models; name the file: {', '.join(choices)}"
    else:
        words = f"there is no model of {client!r}; there are models of {listed}"
    raise ExportError(words, path=directory, key="client", value=client, choices=choices)


def own_name(model: PersonalizedModel) -> str:
    """Return how the client of a model is called: its file, and its own name where it has one."""
    file, name = model.about.get("client", ""), model.about.get(NAME, "")
    return f"{file} ({name})" if name and name != file else file


def rows_of_others(
    model: PersonalizedModel, others: Sequence[Mapping[str, str]]
) -> Mapping[str, int]:
    """Return other client -> number of its rows, in a table that is to be predicted.

    Parameters
    ----------
    model : PersonalizedModel
        The model of one client; its card has the client's name and the column of clients.
    others : sequence of mapping of str to str
        For each row the values in columns that are not features.

    Returns
    -------
    mapping of str to int
        Empty where the model or the table does not say whose it is.
    """
    name, column = model.about.get(NAME, ""), model.about.get(CLIENT_COLUMN, "")
    if not (name and column):
        return {}
    found = Counter(row.get(column, "").strip() for row in others)
    return {other: count for other, count in found.items() if other and not _same(other, name)}


def _same(one: str, other: str) -> bool:
    """Return whether two names are of one client: 7, 07 and 7.0 are."""
    try:
        return one == other.strip() or float(one) == float(other)
    except ValueError:
        return False
