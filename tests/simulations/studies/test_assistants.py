from dataclasses import replace

import numpy as np
import pytest
import torch

from pfl_flower.data import DataError
from simulations.__main__ import main
from simulations.studies import assistants_data, assistants_network
from simulations.studies.assistants import FEDIT, LOCAL, METHODS, STUDY, TEXTS, WORDS, gains, size
from simulations.studies.assistants_network import (
    LONGEST,
    attention_bias,
    embed,
    embeddings,
    encoder_folder,
    load_encoder,
    lower_states,
)
from simulations.study import Outcome, Result, run_study
from simulations.summary import summary_of, write_outcome
from tests.simulations.studies.small_encoder import write_corpus, write_encoder

TEXTS_OF = ["please do my bill", "now", "the song in a way and on and on"]


@pytest.fixture
def small(tmp_path, monkeypatch):
    """An encoder and a corpus that need no download."""
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    monkeypatch.setenv(assistants_network.FOLDER_VARIABLE, str(write_encoder(tmp_path / "bert")))
    monkeypatch.setenv("PFL_DATA_DIR", str(write_corpus(tmp_path / "data")))
    assistants_data.arrays_of.cache_clear()
    yield
    assistants_data.arrays_of.cache_clear()


@pytest.mark.integration
def test_embeddings_are_those_of_the_whole_encoder(small):
    tokenizer, network = load_encoder(encoder_folder())
    tokens = tokenizer(TEXTS_OF, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = network(**tokens).last_hidden_state
    mask = tokens["attention_mask"][..., None]
    mean = (states * mask).sum(1) / mask.sum(1)
    expected = torch.nn.functional.normalize(mean) * states.shape[-1] ** 0.5
    made = lower_states(TEXTS_OF)
    assert made.shape == (3, LONGEST, 16)
    np.testing.assert_allclose(embeddings(made), expected.numpy(), atol=1e-5)


@pytest.mark.integration
def test_with_a_row_for_each_text_the_outputs_are_the_same(small):
    states = torch.from_numpy(lower_states([*TEXTS_OF, "a"]))
    found = []
    for build in (assistants_network.assistant, assistants_network.assistant_by_rows):
        torch.manual_seed(0)
        model = build((LONGEST, 16), 5).eval()
        with torch.no_grad():
            found.append(model(states))
            assert model(torch.zeros_like(states)).isfinite().all()
    torch.testing.assert_close(*found)


@pytest.mark.integration
def test_a_new_assistant_embeds_as_the_encoder_and_trains_its_adapters_only(small):
    model = assistants_network.assistant((LONGEST, 16), 5).eval()
    states = lower_states(TEXTS_OF)
    with torch.no_grad():
        found = embed(model.layers, torch.from_numpy(states))
    np.testing.assert_allclose(found.numpy(), embeddings(states), atol=1e-5)
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    halves = {name for name in trained if "lora_" in name}  # of two layers, two targets
    assert len(halves) == 2 * 2 * assistants_network.UPPER
    assert trained - halves == {"head.weight", "head.bias"}


def test_texts_side_by_side_do_not_look_at_each_other():
    class Mixing(torch.nn.Module):
        def forward(self, states, bias):
            return torch.softmax(bias[0, 0], -1) @ states

    states = torch.randn(2, 4, 3)
    states[1, 2:] = 0  # the second text has two tokens
    layers = torch.nn.ModuleList([Mixing()])
    together = embed(layers, states)
    alone = torch.cat([embed(layers, part) for part in states.split(1)])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(together[1], 3**0.5 * states[1].sum(0) / states[1].sum(0).norm())


def test_what_may_not_be_looked_at_gets_the_lowest_number():
    bias = attention_bias(torch.tensor([True, False]))
    assert bias.tolist() == [0.0, torch.finfo(torch.float32).min]


@pytest.mark.integration
def test_a_small_run_of_all_arms(small, tmp_path):
    short = {"num-server-rounds": 1, "adaptation-steps": 1, "unseen": 0.25}
    arms = [arm for arm in STUDY.arms if arm.name.endswith(", 40 words")]
    study = replace(STUDY, num_clients=4, config={**STUDY.config, **short}, arms=arms)
    outcome = run_study(study, [0])
    assert {len(result.by_client) for result in outcome.results} == {3}
    sent = {r.arm.name: r.summary["bytes_per_round"]["up"] for r in outcome.results}
    assert sent[f"{LOCAL}, 40 words"] == 0
    assert 0 < sent["ffa-lora, 40 words"] < sent[f"{FEDIT}, 40 words"]
    assert sent["ffa-lora, 40 words"] + sent["fedsa-lora, 40 words"] == sent[f"{FEDIT}, 40 words"]
    assert all({"unseen", "unseen, 5 texts"} == set(r.measures) for r in outcome.results)


def test_no_encoder_is_one_line_that_says_what_to_install(monkeypatch):
    monkeypatch.delenv(assistants_network.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(
        assistants_network,
        "find_spec",
        lambda name: None if name.startswith("gt_all") else object(),
    )
    with pytest.raises(DataError) as error:
        encoder_folder()
    assert error.value.value == assistants_network.PACKAGE


@pytest.mark.parametrize("missing", ["corpus", "encoder"])
def test_what_is_missing_is_one_line_before_anything_is_run(missing, monkeypatch, tmp_path, capsys):
    data = tmp_path if missing == "corpus" else write_corpus(tmp_path)
    monkeypatch.setenv("PFL_DATA_DIR", str(data))
    monkeypatch.delenv(assistants_network.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(assistants_network, "PACKAGE", "no-such-encoder")
    assert main(["assistants", "--seeds", "0", "--jobs", "1", "--out", str(tmp_path)]) == 2
    (printed,) = capsys.readouterr().out.splitlines()
    assert ("clinc150" if missing == "corpus" else "no-such-encoder") in printed


def result(arm, seed, accuracy):
    costs = {"bytes_per_round": {"down": 0.0, "up": 0.0}, "parameters": {}}
    costs["seconds_per_round"] = 1.0
    by_client = {client: accuracy(client, seed) for client in range(20)}
    return Result(arm, seed, by_client, costs, {"unseen": 0.5, "unseen, 5 texts": 0.4})


def outcome_of(gain):
    """All arms are at 50 %, but for a household's gain under fedit."""
    return Outcome(
        [
            result(
                arm,
                seed,
                lambda c, s, arm=arm: 0.5 + (gain(c, s) if arm.name.startswith(FEDIT) else 0),
            )
            for arm in STUDY.arms
            for seed in range(3)
        ]
    )


def test_gains_are_paired_by_household_and_chosen_by_number_of_texts():
    outcome = outcome_of(lambda client, seed: (100 * seed + size(seed, client)) / 1000)
    for texts in TEXTS:
        groups = gains(outcome, FEDIT, LOCAL, WORDS[0], texts)
        for seed, group in enumerate(groups):
            sizes = [size(seed, client) for client in range(20)]
            expected = [s for s in sizes if texts[0] <= s <= texts[1]]
            assert (1000 * group - 100 * seed).round().astype(int).tolist() == expected


@pytest.mark.integration
def test_the_page_has_a_row_for_each_pair_and_number_of_texts(tmp_path):
    summary = write_outcome(STUDY, outcome_of(lambda client, seed: 0.1), tmp_path)
    by_words, by_texts = summary["tables"].values()
    row = next(row for row in by_words if (row["arm"], row["above"]) == (FEDIT, LOCAL))
    assert row["0 words"] == "+10.0 (+10.0 to +10.0)"
    assert sum(row["households"] for row in by_texts if row["arm"] == FEDIT) == 60
    assert (tmp_path / "words.png").exists()
    assert summary_of(STUDY, outcome_of(lambda client, seed: 0.0))["claims"] == {}
    assert len(STUDY.arms) == len(METHODS) * len(WORDS)
