"""``python -m clients``: export a client's personalized model, and predict with it."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clients.export.example_files import ExampleFileError, read_examples
from clients.export.export import export_model
from clients.export.model_card import (
    INPUTS,
    MEASUREMENTS,
    SHAPE,
    ExportError,
    card_entry,
)
from clients.export.predict import build_network, predict, preprocessing_of, size_of, table
from clients.export.table_form import table_form
from clients.export.whose import own_name, rows_of_others
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
    export = commands.add_parser("export", help="export a client's whole model")
    export.add_argument(
        "--personal-dir", type=Path, required=True, help="the device's personal directory"
    )
    export.add_argument(
        "--client",
        default="",
        help="name of the client, or its file (client-3), if there are several",
    )
    export.add_argument("--out", type=Path, required=True, help="the file to write, .safetensors")
    export.set_defaults(command=_export)
    use = commands.add_parser("predict", help="predict with an exported model")
    use.add_argument("--model", type=Path, required=True, help="the file that export wrote")
    use.add_argument(
        "--inputs", type=Path, required=True, help=".npy, .npz (x, or by name), or .csv"
    )
    use.add_argument("--out", type=Path, help="the .csv to write; the screen by default")
    use.add_argument("--network", default="", help="module:function of your own network")
    use.set_defaults(command=_predict)
    return parser


def _export(options: argparse.Namespace) -> None:
    model = export_model(options.personal_dir, options.client, options.out)
    print(f"{options.out}: {_words(model)}")


def _predict(options: argparse.Namespace) -> None:
    model = read_model(options.model)
    done, preprocessing = model.about.get(MEASUREMENTS), preprocessing_of(model)
    if done and preprocessing is None:
        raise ExportError(
            f"this client's examples are {done} before its model gets them, which the file alone "
            f"cannot do; without it the predictions would be wrong",
            path=options.model,
            key=MEASUREMENTS,
            value=done,
        )
    network = build_network(model, options.network)
    fills = preprocessing is not None and preprocessing.fills
    names = card_entry(model, INPUTS) if INPUTS in model.about else []
    shape, form = card_entry(model, SHAPE), table_form(model)
    examples = read_examples(options.inputs, shape, form, fills, names)
    rows: list[dict[str, Any]] = predict(network, model, examples.inputs)
    for other, count in rows_of_others(model, examples.others).items():
        print(
            f"warning: {count} of {len(rows)} rows of {options.inputs} are those of {other!r}, and "
            f"this is the model of {own_name(model)}",
            file=sys.stderr,
        )
    if examples.others:  # columns that identify the rows
        if both := [name for name in rows[0] if name in examples.others[0]]:
            words = f"{options.inputs} has columns {both}, as the predictions; rename them"
            raise ExportError(words, path=options.inputs, key="columns", value=both)
        rows = [{**more, **row} for more, row in zip(examples.others, rows, strict=True)]
    if options.out is None:
        print(table(rows), end="")
    else:
        _write(options.out, table(rows))
        print(f"{options.out}: {len(rows)} predictions of {_words(model)}")


def _write(path: Path, text: str) -> None:
    """Write a file atomically, at the target of a link; write directly to a pipe or device.

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
        raise PersonalStateError(f"{path} could not be written: {error}", path=path) from error


def _words(model: PersonalizedModel) -> str:
    about = model.about
    return (
        f"{about.get('method')} model of {own_name(model)} after round {model.round}, "
        f"{len(model.entries)} arrays of {size_of(model)} values"
    )


if __name__ == "__main__":
    sys.exit(main())
