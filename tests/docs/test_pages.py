"""The documentation names everything there is, and its pages are all in the table of contents."""

from pathlib import Path

import pytest

from pfl_flower.methods import METHODS
from simulations.__main__ import STUDIES
from tests.docs.blocks import ROOT

DOCS = ROOT / "docs"


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


def test_the_readme_is_for_newcomers():
    assert len((ROOT / "README.md").read_bytes()) < 8192
