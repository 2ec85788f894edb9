"""The reference of run keys has every key, with what its check allows."""

from dataclasses import fields

import pytest

from pfl_flower.config.keys import CommonKeys
from pfl_flower.methods import METHOD_KEYS
from pfl_flower.utils.key_reference import THEMES, allowed, key_reference
from pfl_flower.utils.text import hyphenated

COMMON = {hyphenated(item.name): item for item in fields(CommonKeys)}


def test_every_key_has_one_row():
    rows = [line.split("`")[1] for line in key_reference().splitlines() if line.startswith("| `")]
    assert rows == [*COMMON, *METHOD_KEYS]


def test_every_theme_begins_with_a_key():
    assert set(THEMES) <= set(COMMON)
    assert next(iter(COMMON)) in THEMES


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("alpha", "above 0"),
        ("momentum", "at least 0 and at most 0.999"),
        ("optimizer", "sgd, adam"),
        ("fine-tuning-epochs", "ascending numbers separated by commas, such as 0,1,5"),
        ("method", "[methods](../methods/index.md)"),
        ("client-column", ""),
    ],
)
def test_what_is_allowed_is_in_the_words_of_the_check(key, words):
    assert allowed(COMMON[key]) == words
