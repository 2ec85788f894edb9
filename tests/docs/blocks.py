"""The blocks of code of a page, in their order, and what runs them.

A page's blocks share one folder and, in Python, one namespace, as a reader's session does::

    ```python                     is executed
    ```python title="my_data.py"  is written to that file (so are TOML, CSV and text blocks)
    ```bash                       is run by ``bash``; a failing command fails the test
    ```text                       shows output; nothing is done

A comment in the lines before a block says what differs: ``<!-- test: integration -->`` (or another
marker) puts the page into that tier, ``<!-- test: in the app -->`` runs it
in a copy of the project, ``<!-- test: not run, REASON -->`` leaves it out.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
APP = ("pfl_flower", "strategies", "clients", "simulations", "pyproject.toml", "README.md")
TIERS = ("integration", "study", "long", "deployment", "browser")
_COMMENT = re.compile(r"<!--\s*test:\s*(.*?)\s*-->", re.DOTALL)
_TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes
    ----------
    line : int
        where it begins, counted from 1
    language : str
        the first word of the fence
    title : str
        the file that it is the content of, or ""
    text : str
        what is in it
    said : tuple of str
        what the comment before it says, split at commas
    """

    line: int
    language: str
    title: str
    text: str
    said: tuple[str, ...]

    @property
    def runs(self) -> bool:
        """Whether the test does something with it."""
        return "not run" not in self.said and (
            self.language in ("python", "bash") or self.title != ""
        )

    @property
    def tier(self) -> str:
        """The marker of the tier it is in; "" for the quick one."""
        return next((word for word in self.said if word in TIERS), "")


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a Markdown page, those in lists included."""
    found = []
    comment: tuple[str, ...] = ()
    for token in MarkdownIt("commonmark").parse(page.read_text()):
        if token.type == "html_block" and (match := _COMMENT.search(token.content)):
            comment = tuple(word.strip() for word in match[1].split(","))
        elif token.type == "fence":
            title = _TITLE.search(token.info)
            line = token.map[0] + 1 if token.map else 0
            language = token.info.split()[0] if token.info.strip() else ""
            block = Block(line, language, title[1] if title else "", token.content, comment)
            found.append(block)
            comment = ()
    return found


def pages() -> list[Path]:
    """Return every page that a reader may copy code from."""
    written = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    return [
        *written,
        *sorted(ROOT.glob("docs/**/*.md")),
        *sorted(ROOT.glob("examples/*/README.md")),
    ]


@cache
def app(folder: Path) -> Path:
    """Return a copy of the project, as a clone would be, under a folder."""
    copy = folder / "app"
    for name in (*APP, "examples"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, copy / name)
    return copy


class Session:
    """One reader's session: a folder, a Python namespace, an environment.

    Parameters
    ----------
    folder : Path
        the empty folder the reader works in
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.groups: list[int] = []
        self.names: dict[str, Any] = {"__name__": "__docs__"}
        tools = Path(sys.executable).parent
        self.environment = {
            **os.environ,
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
            "MPLBACKEND": "Agg",
        }

    def run(self, block: Block, where: str) -> None:
        """Do what a reader does with a block.

        Raises
        ------
        AssertionError
            if a command fails; what it printed is in the message
        """
        folder = app(self.folder) if "in the app" in block.said else self.folder
        if block.title:
            file = folder / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text)
        elif block.language == "python":
            exec(compile(block.text, where, "exec"), self.names)
        else:
            process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", block.text],
                cwd=folder,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            self.groups.append(process.pid)
            printed, complained = process.communicate(timeout=1800)
            assert process.returncode == 0, f"{where}\n{printed[-4000:]}\n{complained[-4000:]}"

    def close(self) -> None:
        """End what the blocks have started in the background and left there."""
        for group in self.groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
