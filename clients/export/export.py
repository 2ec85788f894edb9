"""Export of a client's personalized model from the personal directory of its device."""

from pathlib import Path

from clients.export.model_card import ExportError
from clients.state.model_file import PersonalizedModel, model_files, read_model, write_model


def export_model(directory: Path, client: str, target: Path) -> PersonalizedModel:
    """Copy a client's whole model from a personal directory to a separate file.

    Parameters
    ----------
    directory : Path
        The personal directory of the device.
    client : str
        Name of the client; may be empty if the directory has only one model.
    target : Path
        The file to write. An existing file is not overwritten.

    Raises
    ------
    ExportError
        If the client is ambiguous, it has no model, or the target exists.
    PersonalStateError
        If the model cannot be read, or the file cannot be written.
    """
    files = model_files(directory)
    if not files:
        raise ExportError(
            f"{directory} has no whole model; a client saves one at its first evaluation",
            path=directory,
        )
    if not client and len(files) > 1:
        words = f"{directory} has several models; --client must be one of {', '.join(files)}"
        raise ExportError(words, path=directory, key="client", value=client, choices=files)
    client = client or next(iter(files))
    if client not in files:
        words = f"there is no model of {client!r}; there are models of {', '.join(files)}"
        raise ExportError(words, path=directory, key="client", value=client, choices=files)
    if target.exists():
        raise ExportError(f"{target} already exists; name another file", path=target)
    model = read_model(files[client])
    write_model(target, model)
    return model
