"""The page of a study has its command, table, further tables, pictures, claims and origin."""

from PIL import Image

from simulations.study_page import write_study_page

SUMMARY = {
    "study": "taste",
    "question": "Does it help?",
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
    assert "python -m simulations taste --check" in lines
    assert "| fedper | 95.6 | 2.0 | 91.0 | 2 + 1 kB | 0.50 |" in lines
    assert "| a/b | 0.25 |" in lines
    assert "- **fails**: fedper is good  (95.0 against 97.0)" in lines
    with Image.open(page.parent / "taste-accuracy.png") as picture:
        assert picture.size == (8, 4)
