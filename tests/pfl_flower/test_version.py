"""The version, however the app came to be there."""

import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pfl_flower

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def not_installed(name):
    raise PackageNotFoundError(name)


def test_the_version_is_that_of_the_project():
    assert pfl_flower.__version__ == PROJECT["version"]


def test_an_unpacked_app_has_it_from_its_pyproject(monkeypatch):
    monkeypatch.setattr(pfl_flower, "version", not_installed)
    assert pfl_flower._version() == PROJECT["version"]


def test_copied_packages_alone_have_none(monkeypatch, tmp_path):
    monkeypatch.setattr(pfl_flower, "version", not_installed)
    monkeypatch.setattr(pfl_flower, "_PROJECT", tmp_path / "pyproject.toml")
    assert pfl_flower._version() == "unknown"


def test_the_citation_is_of_this_version():
    assert f"\nversion: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text()
