"""The pages about methods name all methods and run keys that there are, and none that are not."""

import re
from importlib import import_module

import pytest

from pfl_flower.methods import METHODS, keys_of
from tests.docs.blocks import ROOT

PAGES = ROOT / "docs" / "methods"
FAMILIES = {path.stem for path in (ROOT / "pfl_flower" / "methods").glob("*.py")}
FAMILIES -= {"__init__", "method"}


def _rows_of(family):
    return import_module(f"pfl_flower.methods.{family}").METHODS


def test_the_index_links_every_method_to_the_page_of_its_family():
    row = re.compile(r"^\| `([a-z0-9-]+)` \|.*\]\(([a-z_]+)\.md\) \|$", re.MULTILINE)
    found = row.findall((PAGES / "index.md").read_text())
    assert sorted(found) == sorted((name, f) for f in FAMILIES for name in _rows_of(f))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_family_page_names_its_methods_and_all_their_own_keys(family):
    page = PAGES / f"{family}.md"
    words = set(re.findall(r"`([a-z0-9-]+)`", page.read_text()))
    own = {key for name in _rows_of(family) for key in keys_of(METHODS[name])}
    assert not ({*_rows_of(family)} | own) - words
