"""What is generated from the code is up to date."""

from pfl_flower.utils.generate import ROOT, generated


def test_generated_files_are_up_to_date():
    stale = [
        str(p.relative_to(ROOT))
        for p, text in generated()
        if not p.exists() or p.read_text() != text
    ]
    assert not stale, "run: python -m pfl_flower.utils.generate"
