"""The halves of low-rank adapters are found by type, as pairs of one product."""

import pytest
from torch import nn

from clients import low_rank_pairs
from pfl_flower.models import BottleneckAdapter, LowRankAdapter


def peft_model(network, **options):
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(network, peft.LoraConfig(r=3, **options))


class Some(nn.Module):
    """A layer of every kind that LoRA goes beside."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.wide = nn.Conv1d(4, 6, 3)
        self.last = nn.Linear(6, 2)

    def forward(self, x):
        return self.last(self.wide(self.table(x).transpose(1, 2)).amax(dim=2))


def test_a_network_without_adapters_has_none():
    assert low_rank_pairs(nn.Linear(3, 3)) == []
    assert low_rank_pairs(BottleneckAdapter(4, 2)) == []  # two layers, but no product


def test_an_adapter_that_declares_its_halves_is_one():
    network = nn.Sequential(nn.Linear(4, 4), LowRankAdapter(4, 5, 2))
    (pair,) = low_rank_pairs(network)
    assert (pair.a, pair.b) == ("1.down.weight", "1.up.weight")


def test_an_adapter_that_is_registered_twice_is_one():
    network = nn.Sequential(LowRankAdapter(4, 4, 2), nn.ReLU())
    network.append(network[0])
    assert len(low_rank_pairs(network)) == 1


@pytest.mark.integration
def test_layers_of_peft_have_theirs_of_every_adapter():
    model = peft_model(Some(), target_modules=["table", "wide", "last"], lora_bias=False)
    model.add_adapter("second", model.peft_config["default"])
    entries = model.state_dict()
    found = low_rank_pairs(model)
    assert len(found) == 6
    for pair in found:
        first, second = entries[pair.a], entries[pair.b]
        assert first.shape[0] == second.shape[1] == 3
        assert pair.a.replace("_A", "_B") == pair.b
    assert not any("base_layer" in pair.a for pair in found)


def test_a_bias_of_a_half_is_in_no_product():
    model = peft_model(Some(), target_modules=["last"], lora_bias=True)
    (pair,) = low_rank_pairs(model)
    assert pair.b.endswith("lora_B.default.weight")


def test_halves_that_do_not_fit_are_no_product():
    network = LowRankAdapter(4, 4, 2)
    network.up = nn.Linear(3, 4, bias=False)
    assert low_rank_pairs(network) == []


def test_other_adapters_of_peft_are_none():
    peft = pytest.importorskip("peft")
    config = peft.IA3Config(target_modules=["last"], feedforward_modules=[])
    assert low_rank_pairs(peft.get_peft_model(Some(), config)) == []
