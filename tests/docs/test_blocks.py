"""Every block of code in README and docs is run as a reader would run it."""

from contextlib import closing

import pytest

from tests.docs.blocks import ROOT, TIERS, Session, blocks_of, pages


def _tier(page):
    """A page is in the slowest tier that one of its blocks names."""
    named = {block.tier for block in blocks_of(page) if block.runs} - {""}
    return [getattr(pytest.mark, max(named, key=TIERS.index))] if named else []


def _cases():
    return [
        pytest.param(page, id=str(page.relative_to(ROOT)), marks=_tier(page))
        for page in pages()
        if any(block.runs for block in blocks_of(page))
    ]


@pytest.mark.parametrize("page", _cases())
def test_the_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with closing(Session(tmp_path)) as session:
        for block in blocks_of(page):
            if block.runs:
                session.run(block, f"{page.relative_to(ROOT)}:{block.line}")


def test_what_is_not_run_says_why():
    silent = [
        f"{page.relative_to(ROOT)}:{block.line}"
        for page in pages()
        for block in blocks_of(page)
        if block.said[:1] == ("not run",) and len(block.said) < 2
    ]
    assert not silent
