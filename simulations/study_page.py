"""A study's results as a page of the documentation: what ``--markdown`` writes."""

import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from PIL import Image

from pfl_flower.utils.files import write_bytes
from simulations.summary import claim_text, further_table, summary_table

ROOT = Path(__file__).resolve().parents[1]
_OF_THE_MACHINE = ("--markdown", "--out", "--jobs")
_NOT_RUN = "<!-- test: not run, it takes minutes -->"
_PACKAGES = ("flwr", "torch", "numpy")


def write_study_page(
    path: Path, summary: Mapping[str, Any], folder: Path, command: Sequence[str]
) -> None:
    """Write the page, and beside it the study's pictures.

    Parameters
    ----------
    path : Path
        The Markdown file; its folder is made.
    summary : mapping
        The content of the study's ``summary.json``.
    folder : Path
        The results folder, which has the pictures.
    command : sequence of str
        The command line that made it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = []
    for picture in sorted(folder.glob("*.png")):
        copy = path.with_name(f"{path.stem}-{picture.name}")
        _copy_picture(picture, copy)
        caption = picture.stem.replace("-", " ").capitalize()
        pictures.append(f"![{caption}]({copy.name})\n*{caption}*")
    parts = [
        f"# {summary['study']}",
        summary["question"],
        *filter(None, (summary["answer"],)),
        f"{_NOT_RUN}\n```bash\n{_shown(command)}\n```",
        f"{summary['clients']} clients, seeds {', '.join(map(str, summary['seeds']))}, "
        f"{_settings(summary['config'])}. {_made()}",
        "## Result",
        " ".join(filter(None, (_unit(summary["score"]), summary["reading"]))),
        _markdown_table(*summary_table(summary)),
        *(
            f"### {title}\n\n{_markdown_table(*further_table(rows))}"
            for title, rows in summary["tables"].items()
        ),
        *pictures,
        *_claims(summary["claims"]),
    ]
    write_bytes(path, ("\n\n".join(parts) + "\n").encode())


def _shown(command: Sequence[str]) -> str:
    """Return the command without what only the machine that made the page needs."""
    words = iter(command)
    shown = []
    for word in words:
        name = word.partition("=")[0]
        if name in _OF_THE_MACHINE:
            if name == word:
                next(words, None)  # its value
        else:
            shown.append(word)
    return " ".join(shown)


def _copy_picture(picture: Path, copy: Path) -> None:
    """Copy a picture with 64 colours, a third of the size, which a plot does not miss."""
    with Image.open(picture) as image:
        image.convert("RGB").quantize(64).save(copy, optimize=True)


def _settings(config: Mapping[str, Any]) -> str:
    return "run keys of every arm: " + ", ".join(f"`{k}={v}`" for k, v in config.items())


def _unit(score: str) -> str:
    if score == "rmse":
        return "Root mean squared error, in the unit of the target, over clients and seeds."
    return "Per cent of a client's own test examples, over clients and seeds."


def _markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---", *("---:" for _ in heads[1:])], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _claims(claims: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if not claims:
        return []
    lines = [
        f"- {'holds' if claim['holds'] else '**fails**'}: {claim_text(name, claim)}"
        for name, claim in claims.items()
    ]
    words = "What the study promises; `--check` fails where a promise does not hold."
    return ["## Promises", words, "\n".join(lines)]


def _made() -> str:
    """Return when, of which commit and with what the page was made."""
    import torch

    packages = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    gpu = "with" if torch.cuda.is_available() else "without"
    return (
        f"Made on {datetime.now(UTC):%Y-%m-%d} at commit {_commit()} with Python "
        f"{platform.python_version()}, {packages}, on {platform.machine()} {gpu} a GPU."
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "?"


def _commit() -> str:
    """Return the commit of the code, marked where files differ from it; "unknown" without git."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()
