"""The page of a study has its command, table, further tables, pictures, claims and origin."""

import pytest
from PIL import Image

from simulations.__main__ import STUDIES
from simulations.study_page import ROOT, write_study_page

PAGES = ROOT / "docs" / "studies"

SUMMARY = {
    "study": "taste",
    "question": "Does it help?",
    "answer": "Yes, by a point.",
    "reading": "Taste is a permutation of labels.",
    "clients": 3,
    "seeds": [0, 1],
    "config": {"dataset": "digits"},
    "score": "accuracy",
    "methods": {
        "fedper": {
            "accuracy": {"mean": 0.956, "std": 0.02, "worst_tenth": 0.91},
            "bytes_per_round": {"down": 2000, "up": 1000},
            "seconds_per_round": 0.5,
        }
    },
    "tables": {"Who": [{"group": "a|b", "share": 0.25}]},
    "claims": {"fedper is good": {"value": 0.95, "threshold": 0.97, "holds": False}},
}


def test_the_page_of_a_study(tmp_path):
    (tmp_path / "results").mkdir()
    Image.new("RGB", (8, 4), "red").save(tmp_path / "results" / "accuracy.png")
    page = tmp_path / "docs" / "taste.md"
    command = ["python -m simulations", "taste", "--markdown", "docs/taste.md"]
    command += ["--jobs=1", "--check"]
    write_study_page(page, SUMMARY, tmp_path / "results", command)
    lines = page.read_text().splitlines()
    assert lines[0] == "# taste"
    assert lines[2:5] == ["Does it help?", "", "Yes, by a point."]
    assert "python -m simulations taste --check" in lines
    assert "| fedper | 95.6 | 2.0 | 91.0 | 2 + 1 kB | 0.50 |" in lines
    assert "| a/b | 0.25 |" in lines
    assert any(
        line.endswith("over clients and seeds. Taste is a permutation of labels.") for line in lines
    )
    assert "*Accuracy*" in lines
    assert "- **fails**: fedper is good  (95.0 against 97.0)" in lines
    with Image.open(page.parent / "taste-accuracy.png") as picture:
        assert picture.size == (8, 4)


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.stem)
def test_a_page_asks_and_answers_what_its_study_does(page):
    if page.stem != "index":
        study, lines = STUDIES[page.stem], page.read_text().splitlines()
        assert lines[2] == study.question
        assert study.answer
        assert lines[4] == study.answer
