import html
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pfl_flower.comparison.cells import CellResult
from pfl_flower.comparison.compare import Comparison, compare
from pfl_flower.comparison.reporting.canvas import colors_of
from pfl_flower.comparison.reporting.notes import common_settings, notes_of, own_settings
from pfl_flower.comparison.reporting.pictures import draw_pictures
from pfl_flower.comparison.reporting.report import write_report
from pfl_flower.comparison.selection import methods_of
from tests.pfl_flower.comparison.synthetic import METHODS, cell, comparison

FAILURE = CellResult("personal-se", 0, {}, "the network has no <squeeze> block")
PICTURES = ["clients", "gains", "curves", "traffic", "labels", "unseen"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison") / "new"
    cells = [*comparison(), FAILURE]
    path = write_report(cells, folder, "Who <gains>?", {"data": "digits & more"})
    assert path == folder / "report.html"
    return folder


def test_the_report_is_one_small_file_that_needs_nothing_else(folder):
    path = folder / "report.html"
    text = path.read_text()
    assert path.stat().st_size < 1e6
    assert "http" not in text
    assert "<script" not in text
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert all(source.startswith("data:") for source in sources)
    assert sum(source.startswith("data:image/png") for source in sources) == len(PICTURES)
    assert all(re.findall(r'<img [^>]*alt="([^"]+)"', text))


def test_tables_and_pictures_stand_next_to_it(folder):
    names = {path.name for path in folder.iterdir()}
    tables = {"table.md", "table.csv", "clients.csv", "curves.csv", "unseen.csv"}
    assert names == {"report.html", *tables, *(f"{name}.png" for name in PICTURES)}
    assert (folder / "table.md").read_text().count("fedper") == 1


def test_words_come_first_and_are_escaped(folder):
    text = (folder / "report.html").read_text()
    order = [text.index(f'id="{part}"') for part in ("recommendation", "table", "pictures")]
    order += [text.index(f'id="{part}"') for part in ("cost", "settings", "notes")]
    assert order == sorted(order)
    for words in ("Who &lt;gains&gt;?", "no &lt;squeeze&gt; block", "digits &amp; more"):
        assert words in text
    assert "Use fedper" in text
    assert text.count('<tr class="recommended">') == 1
    assert "not corrected for several comparisons" in text


def test_pictures_are_narrow_and_crisp(folder):
    for name in PICTURES:
        with Image.open(folder / f"{name}.png") as picture:
            assert picture.width == round(5.4 * 170)
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 10  # something is drawn


def test_a_method_has_its_color_and_keeps_it():
    colors = colors_of(comparison(seeds=1, clients=2, rounds=1))
    assert len(set(colors.values())) == len(METHODS)
    fewer = colors_of(comparison(("fedprox", "fedavg", "local", "fedavg-ft"), 1, 2, 1))
    assert all(colors[method] == color for method, color in fewer.items())


@pytest.mark.integration
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_pictures_of_what_there_is(task):
    cells = comparison(("local", "fedper"), 1, 3, 2, task)
    assert [picture.name for picture in draw_pictures(cells)] == [
        *("clients", "curves", "traffic", "labels", "unseen")
    ]
    plain = [replace(c, label_counts=np.zeros((0, 0)), unseen_test=np.zeros((0, 0))) for c in cells]
    plain = [replace(c, unseen_examples=np.zeros(0), bytes_down=0, bytes_up=0) for c in plain]
    assert [picture.name for picture in draw_pictures(plain)] == ["clients", "curves"]
    assert draw_pictures([FAILURE]) == []


@pytest.mark.integration
def test_a_panel_shows_what_its_shares_say():
    """The gains of one method alone change when a client is harmed."""
    cells = comparison(("fedavg", "local", "fedper"), 1, 6, 2)
    harmed = [replace(c, test=c.test * (c.method != "fedper")) for c in cells]
    before, after = (
        {p.name: Image.open(io.BytesIO(p.png)).convert("RGB") for p in draw_pictures(each)}
        for each in (cells, harmed)
    )
    assert before["labels"].tobytes() == after["labels"].tobytes()
    assert before["gains"].tobytes() != after["gains"].tobytes()


@pytest.mark.parametrize(
    "cells",
    [
        [],
        [FAILURE],
        [cell("fedavg", [0.5, 0.6])],
        [cell("fedavg", [np.nan, np.nan]), cell("local", [0.5, 0.5], [0.5, 0.5])],
        [cell(m, [[np.inf, 1.0]], [[np.inf, 1.0]], task="regression") for m in ("local", "fedavg")],
        pytest.param(
            comparison((*METHODS, *map(str, range(8))), 1, 80, 2), marks=pytest.mark.integration
        ),
        pytest.param(
            comparison(("fedavg", "local", "fedper"), 6, 3, 2, "regression"),
            marks=pytest.mark.integration,
        ),
    ],
    ids=["nothing", "failed", "one", "no scores", "diverged", "many", "regression"],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_odd_comparisons_have_a_report_too(cells, tmp_path):
    path = write_report(cells, tmp_path, "Odd")
    assert path.read_text().rstrip().endswith("</html>")
    assert "nan" not in re.sub(r'"data:[^"]*"', "", path.read_text())


def test_settings_are_those_of_all_or_those_of_each():
    cells = [
        CellResult(m, s, {"method": m, "seed": s, "rate": 0.1, "personal": "head" * (m == "a")})
        for m in ("a", "b", "c")
        for s in (0, 1)
    ]
    assert common_settings([*cells, FAILURE]) == {"rate": "0.1"}
    assert own_settings([*cells, FAILURE]) == {"personal": "head (a); (empty) (b, c)"}


def test_notes_say_what_is_missing():
    cells = [cell("fedavg", [0.5, np.nan]), cell("local", [0.5, 0.5], [0.5, 0.5]), FAILURE]
    notes = " ".join(notes_of(cells))
    assert "last round stands for fedavg." in notes
    assert "left out (fedavg: 1)" in notes
    assert "Not run: personal-se, seed 0." in notes
    assert "With one seed only clients are drawn" in notes
    assert "Wilcoxon" not in notes
    assert "Wilcoxon" in " ".join(notes_of(comparison(("fedavg",), 6, 2, 1)))


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)

PROBE = """
window.onload = () => {
  const page = document.querySelector("iframe").contentDocument;
  const box = page.querySelector("#table .scroll"), name = box.querySelector("tbody th");
  const before = name.getBoundingClientRect().left;
  box.scrollLeft = 200;
  document.body.dataset.found = JSON.stringify({
    images: [...page.images].map((image) => image.complete && image.naturalWidth),
    width: page.documentElement.scrollWidth,
    table: box.scrollWidth,
    moved: name.getBoundingClientRect().left - before,
    scrolled: box.scrollLeft,
  });
};
"""


def browse(profile, *arguments):
    """Run headless Chromium; return what it prints."""
    quiet = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    quiet += ["--disable-background-networking", "--disable-component-update", "--hide-scrollbars"]
    command = [CHROMIUM, "--headless", "--no-sandbox", *quiet, f"--user-data-dir={profile}"]
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


def probe(text, width, tmp_path):
    """Open a page in a frame so wide, which a window cannot always be, and look around in it."""
    frame = f'<iframe srcdoc="{html.escape(text)}" style="width:{width}px;height:900px;border:0">'
    page = tmp_path / f"probe-{width}.html"
    page.write_text(f"<!doctype html><body>{frame}</iframe><script>{PROBE}</script>")
    found = browse(tmp_path / "profile", "--dump-dom", page.as_uri())
    return json.loads(html.unescape(re.search(r'data-found="([^"]*)"', found)[1]))


needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")


@pytest.mark.browser
@needs_chromium
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_all_of_it(folder, width, tmp_path):
    found = probe((folder / "report.html").read_text(), width, tmp_path)
    assert len(found["images"]) == len(PICTURES)
    assert all(found["images"])
    assert found["width"] <= width
    if width == 390:
        assert found["table"] > width  # the table scrolls within its box ...
        assert found["scrolled"] == 200
        assert found["moved"] == 0  # ... and its first column stays
    else:
        assert found["table"] <= width


@pytest.mark.browser
@needs_chromium
@pytest.mark.parametrize(("task", "seeds"), [("classification", 3), ("regression", 6)])
def test_the_table_fits_a_printed_page(task, seeds, tmp_path):
    path = write_report(comparison(METHODS, seeds, 4, 3, task), tmp_path / "wide", "Wide")
    text = path.read_text().replace("@media print", "@media all")
    a4 = round((210 - 2 * 13) / 25.4 * 96)
    found = probe(text, a4, tmp_path)
    assert found["table"] <= a4
    assert found["width"] <= a4


@pytest.mark.browser
@needs_chromium
def test_a_screenshot_shows_the_words_and_the_pictures(folder, tmp_path):
    target = tmp_path / "report.png"
    page = (folder / "report.html").as_uri()
    browse(tmp_path / "profile", "--window-size=1200,4000", f"--screenshot={target}", page)
    image = np.asarray(Image.open(target).convert("RGB"), dtype=int)
    assert image.shape == (4000, 1200, 3)
    dark = (image.max(axis=2) < 90).mean(axis=1) > 0  # rows with text or lines
    assert dark[:400].any()  # the recommendation
    assert dark[2000:].any()  # pictures
    colored = (image.max(axis=2) - image.min(axis=2) > 80).any(axis=1)
    assert colored[1000:].mean() > 0.1


@pytest.mark.browser
@needs_chromium
def test_a_real_comparison_of_8_methods_and_3_seeds_opens_without_an_error(tmp_path):
    methods = ["fedavg-ft", "fedper", "fedrep", "fedbabu", "lg-fedavg", "fedbn"]
    config = {"num-server-rounds": 20, "partition": "dirichlet", "alpha": 0.3, "unseen": 0.2}
    outcome = compare(Comparison(methods, config), tmp_path, jobs=2)
    assert len(methods_of(outcome.cells)) == 8
    path = write_report(outcome.cells, tmp_path, "Eight methods")
    assert path.stat().st_size < 3e6
    found = probe(path.read_text(), 1200, tmp_path)
    assert len(found["images"]) == len(PICTURES)
    assert all(found["images"])


@pytest.mark.browser
@needs_chromium
def test_it_prints(folder, tmp_path):
    target = tmp_path / "report.pdf"
    page = (folder / "report.html").as_uri()
    browse(tmp_path / "profile", f"--print-to-pdf={target}", "--no-pdf-header-footer", page)
    content = target.read_bytes()
    assert content.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 8
