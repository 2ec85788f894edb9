"""A recipe is a command line; what cannot be followed is refused with what would be right."""

import pytest

from simulations.__main__ import STUDIES, main
from simulations.recipe import FOLDER, RecipeError, words_of
from tests.errors import refused

COMMANDS = [*STUDIES, "compare"]


def test_every_study_has_a_recipe_with_its_own_seeds():
    for name, study in STUDIES.items():
        seeds = ",".join(str(seed) for seed in study.seeds)
        assert words_of(f"{name}.toml", COMMANDS) == [name, f"--seeds={seeds}", "--check"]


def test_every_recipe_is_one_of_a_command():
    for path in FOLDER.glob("*.toml"):
        assert words_of(str(path), COMMANDS)[0] in COMMANDS


def test_options_become_words(tmp_path):
    recipe = tmp_path / "own.toml"
    recipe.write_text(
        'version = 1\ncommand = "compare"\n[options]\n'
        'methods = ["a", "b"]\nclients = 4\ntune = true\n'
    )
    assert words_of(str(recipe), COMMANDS) == ["compare", "--methods=a,b", "--clients=4", "--tune"]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("version = 2\ncommand = 'taste'", "version"),
        ("command = 'taste'", "version"),
        ("version = 1\ncommand = 'tast'", "command"),
        ("version = 1", "command"),
        ("version = 1\ncommand = 'taste'\nseeds = [1]", "seeds"),
        ("version = 1\ncommand = 'taste'\noptions = 3", "options"),
        ("version = ", "file"),
    ],
)
def test_a_recipe_that_cannot_be_followed(tmp_path, text, key):
    (tmp_path / "own.toml").write_text(text)
    with refused(RecipeError, key=key):
        words_of(str(tmp_path / "own.toml"), COMMANDS)


def test_a_recipe_that_is_not_there_names_those_that_are(tmp_path):
    with refused(RecipeError, key="file", choices=("taste.toml",)):
        words_of("none.toml", COMMANDS)
    with refused(RecipeError, key="file"):
        words_of("elsewhere/taste.toml", COMMANDS)
    assert main(["none.toml"]) == 2
