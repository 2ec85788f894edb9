"""What is generated from the code is up to date."""

from pathlib import Path

from pfl_flower.utils import generate
from pfl_flower.utils.generate import ROOT, generated


def test_generated_files_are_up_to_date():
    stale = [
        str(p.relative_to(ROOT))
        for p, text in generated()
        if not p.exists() or p.read_text() != text
    ]
    assert not stale, "run: python -m pfl_flower.utils.generate"


def test_every_module_is_read_once_even_in_a_circle(tmp_path, monkeypatch):
    below = {
        "top": "from floor.left import a\nfrom floor.right import b\n",
        "left": "from floor.base import c\n",
        "right": "from floor.base import c\nfrom floor.top import d\n",
        "base": "import numpy\n",
    }
    (tmp_path / "floor").mkdir()
    for name, text in below.items():
        (tmp_path / "floor" / f"{name}.py").write_text(text)
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    read, read_text = [], Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path: read.append(path.stem) or read_text(path))
    assert not generate._imports(tmp_path / "floor" / "top.py", "torch", "floor")
    assert sorted(read) == sorted(below)
    assert generate._imports(tmp_path / "floor" / "top.py", "numpy", "floor")
