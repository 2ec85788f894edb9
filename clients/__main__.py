"""``python -m clients``: take a personalized model off a device, and predict with it."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clients.export.example_files import ExampleFileError, read_examples
from clients.export.exported_model import (
    COLUMNS,
    MEASUREMENTS,
    SHAPE,
    ExportError,
    network_of,
    predict,
    size_of,
    table,
    take_out,
    told,
)
from clients.state.model_file import PersonalizedModel, read_model
from clients.state.state_file import PersonalStateError, write_bytes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except (ExportError, ExampleFileError, PersonalStateError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m clients", description=__doc__)
    commands = parser.add_subparsers(required=True)
    export = commands.add_parser("export", help="take a client's whole model out")
    export.add_argument("--personal-dir", type=Path, required=True, help="of the device")
    export.add_argument("--client", default="", help="whose model, if there are several")
    export.add_argument("--out", type=Path, required=True, help="the file to write, .safetensors")
    export.set_defaults(command=_export)
    use = commands.add_parser("predict", help="predict with a model that was taken out")
    use.add_argument("--model", type=Path, required=True, help="the file that export wrote")
    use.add_argument("--inputs", type=Path, required=True, help=".npy, .npz with x, or .csv")
    use.add_argument("--out", type=Path, help="the .csv to write; the screen by default")
    use.add_argument("--network", default="", help="module:function of a network of one's own")
    use.set_defaults(command=_predict)
    return parser


def _export(options: argparse.Namespace) -> None:
    model = take_out(options.personal_dir, options.client, options.out)
    print(f"{options.out}: {_words(model)}")


def _predict(options: argparse.Namespace) -> None:
    model = read_model(options.model)
    if readings := model.about.get(MEASUREMENTS):
        raise ExportError(
            f"this client's readings are {readings} before its model sees them, by statistics that "
            f"stay with it; its model alone would be wrong about readings as they are"
        )
    network = network_of(model, options.network)
    columns = told(model, COLUMNS) if COLUMNS in model.about else []
    examples = read_examples(options.inputs, told(model, SHAPE), columns)
    rows: list[dict[str, Any]] = predict(network, model, examples.inputs)
    if examples.others:  # whose row it is
        if both := [name for name in rows[0] if name in examples.others[0]]:
            raise ExportError(f"{options.inputs} has columns {both}, as the answers; rename them")
        rows = [{**more, **row} for more, row in zip(examples.others, rows, strict=True)]
    if options.out is None:
        print(table(rows), end="")
    else:
        _write(options.out, table(rows))
        print(f"{options.out}: {len(rows)} predictions of {_words(model)}")


def _write(path: Path, text: str) -> None:
    """Write a file at once, where a link leads; and to what is no file, such as a pipe, as it is.

    Raises
    ------
    PersonalStateError
        If it cannot be written.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
        elif (target := Path(os.path.realpath(path))).parent.is_dir():
            write_bytes(target, text.encode())
        else:
            raise FileNotFoundError(f"there is no folder {target.parent}")
    except OSError as error:
        raise PersonalStateError(f"{path} could not be written: {error}") from error


def _words(model: PersonalizedModel) -> str:
    about = model.about
    return (
        f"{about.get('method')} model of {about.get('client')} after round {model.round}, "
        f"{len(model.entries)} arrays of {size_of(model)} values"
    )


if __name__ == "__main__":
    sys.exit(main())
