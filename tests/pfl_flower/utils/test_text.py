import pytest

from pfl_flower.config.reading import KEYS
from pfl_flower.methods import METHOD_KEYS
from pfl_flower.utils.text import nearest


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("rounds", "num-server-rounds"),
        ("larning-rate", "learning-rate"),
        ("learning-rat", "learning-rate"),
        ("lr", "learning-rate"),
        ("epochs", "local-epochs"),
        ("label", "label-column"),
        ("metod", "method"),
        ("batchsize", "batch-size"),
        ("num_server_rounds", "num-server-rounds"),
    ],
)
def test_the_nearest_key_shares_a_word_or_nearly_all_letters(given, found):
    assert found in nearest(given, (*KEYS, *METHOD_KEYS))


@pytest.mark.parametrize("given", ["xyzzy", "", "-", "q"])
def test_where_nothing_is_near_nothing_is_suggested(given):
    assert nearest(given, (*KEYS, *METHOD_KEYS)) == []


def test_no_more_than_three_are_suggested_and_the_best_comes_first():
    assert nearest("clientcolumn", KEYS)[0] == "client-column"
    assert len(nearest("column", ["a-column", "b-column", "c-column", "d-column"])) == 3
