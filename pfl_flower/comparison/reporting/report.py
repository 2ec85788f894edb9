"""The report of a comparison: one HTML file that needs nothing else, with tables and pictures."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pfl_flower.comparison.advice.recommendation import recommend
from pfl_flower.comparison.cells import CellResult
from pfl_flower.comparison.reporting.canvas import Picture
from pfl_flower.comparison.reporting.notes import notes_of, settings_of, subtitle_of, table_note
from pfl_flower.comparison.reporting.pictures import draw_pictures
from pfl_flower.comparison.reporting.score_table import NOTE, shown_scores
from pfl_flower.comparison.reporting.tables import (
    Row,
    cell_text,
    columns_of,
    table_rows,
    write_tables,
)
from pfl_flower.comparison.wording import MISSING, bytes_text
from pfl_flower.utils.files import write_bytes

TEMPLATE = "report.html.j2"

STARTS = ("gain_over_global", "gain_over_alone", "bytes")
"""Columns with which a group of the table starts."""


def write_report(
    cells: Sequence[CellResult],
    folder: Path,
    title: str,
    description: Mapping[str, str] | None = None,
) -> Path:
    """Write ``report.html``, the tables and the pictures into a folder, each whole or not at all.

    Parameters
    ----------
    cells : sequence of CellResult
        Every method on every seed.
    folder : Path
        Is made if it is not there.
    title : str
        Heading of the report.
    description : mapping of str to str, optional
        What is compared in words, shown among the settings: label -> text.

    Returns
    -------
    Path
        Path of ``report.html``, which holds its pictures and needs no network.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_tables(cells, folder)
    pictures = draw_pictures(cells)
    for picture in pictures:
        write_bytes(folder / f"{picture.name}.png", picture.png)
    path = folder / "report.html"
    write_bytes(path, to_html(cells, pictures, title, description).encode())
    return path


def to_html(
    cells: Sequence[CellResult],
    pictures: Sequence[Picture],
    title: str,
    description: Mapping[str, str] | None = None,
) -> str:
    """Return the report as one HTML file; see :func:`write_report`."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows, recommendation = table_rows(cells), recommend(cells)
    columns = columns_of(rows)
    return environment.get_template(TEMPLATE).render(
        title=title,
        subtitle=subtitle_of(cells),
        sentences=recommendation.sentences,
        table_note=table_note(cells),
        columns=[{"heading": h, "starts": k in STARTS} for k, h in columns.items()],
        rows=[_shown_row(row, list(columns), recommendation.method) for row in rows],
        pictures=[_shown_picture(picture) for picture in pictures],
        scores=shown_scores(cells),
        score_note=NOTE,
        costs=_costs(rows),
        settings=settings_of(cells, description),
        notes=notes_of(cells),
    )


def _shown_row(row: Row, columns: Sequence[str], recommended: str) -> dict[str, Any]:
    """Return what the template needs of a row; the interval of a gain goes on a line of its own."""
    seeds = row["seeds"].replace(" ", ", ")
    shown: dict[str, Any] = {"name": row["method"], "failure": row["failure"], "cells": []}
    shown["seeds"] = f"seed{'s' * (',' in seeds)} {seeds}"
    shown["recommended"] = row["method"] == recommended and not row["failure"]
    for key in columns if not row["failure"] else ():
        value, bracket, rest = cell_text(row, key).partition("[")
        shown["cells"].append(
            {"value": value.strip(), "interval": f"{bracket}{rest}"}
            | {"starts": key in STARTS, "missing": value == MISSING}
        )
    return shown


def _shown_picture(picture: Picture) -> dict[str, Any]:
    """Return what the template needs of a picture; a PNG has its size in bytes 16 to 24."""
    return {
        **{"name": picture.name, "title": picture.title, "aid": picture.aid, "alt": picture.alt},
        "source": f"data:image/png;base64,{b64encode(picture.png).decode()}",
        "width": int.from_bytes(picture.png[16:20], "big"),
        "height": int.from_bytes(picture.png[20:24], "big"),
    }


def _costs(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the table of costs; empty if nothing ran."""
    ran = [row for row in rows if not row["failure"]]
    if not ran:
        return {}
    headings = ["kB down a round", "kB up a round", "kB in all rounds", "shared parameters"]
    headings += ["personal parameters", "seconds a round", "chosen round of each seed"]
    return {
        "headings": headings,
        "rows": [
            {
                "name": row["method"],
                "texts": [
                    bytes_text(row["bytes_down"]),
                    bytes_text(row["bytes_up"]),
                    bytes_text((row["bytes_down"] + row["bytes_up"]) * row["rounds"]),
                    *(f"{row[key]:,.0f}" for key in ("shared", "personal")),
                    f"{row['seconds_per_round']:.2f}",
                    row["chosen_rounds"].replace(" ", ", "),
                ],
            }
            for row in ran
        ],
    }
