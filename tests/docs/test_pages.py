"""The documentation names everything there is, and its pages are all in the table of contents."""

import ast
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import clients
import strategies
from pfl_flower.methods import METHODS
from simulations.__main__ import STUDIES
from tests.docs.blocks import ROOT

DOCS = ROOT / "docs"


def hook(name):
    """A function of the script that MkDocs runs, which lies in no package."""
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_is_listed(study):
    assert f"`{study}`" in (DOCS / "studies" / "index.md").read_text()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_listed(method):
    assert f"`{method}`" in (DOCS / "methods" / "index.md").read_text()


def test_every_page_is_in_the_table_of_contents():
    nav = (ROOT / "mkdocs.yml").read_text()
    pages = [str(Path(page).relative_to(DOCS)) for page in DOCS.rglob("*.md")]
    assert [page for page in pages if page not in nav] == []


def test_what_docstrings_refer_to_is_a_link_where_the_page_has_it():
    page = (
        '<h3 id="clients.Scope"></h3>:class:<code>~clients.Scope</code>, :func:<code>train</code>'
    )
    made = hook("on_page_content")(page)
    assert made.endswith(
        '<a href="#clients.Scope"><code>clients.Scope</code></a>, <code>train</code>'
    )


def test_the_readme_is_for_newcomers():
    assert len((ROOT / "README.md").read_bytes()) < 8192


PUBLIC = {name: getattr(floor, name) for floor in (strategies, clients) for name in floor.__all__}
WORDS = re.compile(r"(?<!`)`([A-Za-z_.]+\([^`\n]*\))`(?!`)")


def arguments_of(made: type) -> set[str]:
    """Return what a class can be made with, by its own name or passed on to a base class."""
    makers = [vars(base)["__init__"] for base in inspect.getmro(made) if "__init__" in vars(base)]
    return {name for maker in makers for name in inspect.signature(maker).parameters}


def unknown_arguments(page: Path) -> Iterator[str]:
    """Yield what a page passes to a class, in the middle of a sentence, that the class lacks."""
    for code in WORDS.findall(page.read_text()):
        try:
            calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
        except SyntaxError:
            continue
        for call in calls:
            made = PUBLIC.get(call.func.id) if isinstance(call.func, ast.Name) else None
            if isinstance(made, type):
                known = arguments_of(made)
                yield from (f"{code}: {k.arg}" for k in call.keywords if k.arg not in known)


def test_arguments_in_sentences_are_those_of_the_classes():
    pages = [*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    assert [each for page in pages for each in unknown_arguments(page)] == []
