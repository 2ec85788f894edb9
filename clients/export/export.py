"""Export of a client's personalized model from the personal directory of its device."""

from pathlib import Path

from clients.export.model_card import ExportError
from clients.export.whose import file_of
from clients.state.model_file import PersonalizedModel, model_files, read_model, write_model


def export_model(directory: Path, client: str, target: Path) -> PersonalizedModel:
    """Copy a client's whole model from a personal directory to a separate file.

    Parameters
    ----------
    directory : Path
        The personal directory of the device.
    client : str
        The client, by the name in its data or that of its file (:func:`file_of`); may be empty if
        the directory has only one model.
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
    source = file_of(files, client, directory)
    if target.exists():
        raise ExportError(f"{target} already exists; name another file", path=target)
    model = read_model(source)
    write_model(target, model)
    return model
