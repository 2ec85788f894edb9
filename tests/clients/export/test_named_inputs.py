"""Exported models with inputs by name, and of libraries, predict what they did on the device."""

import json

import numpy as np
import pytest

from clients import __main__ as commands
from clients.__main__ import main
from clients.export.example_files import ExampleFileError, read_examples
from clients.export.model_card import ARGUMENTS
from clients.state.model_file import read_model
from pfl_flower.config.run_config import RunConfig
from pfl_flower.engines import simulate
from tests.clients.export.device_models import exported, own_test, predicted
from tests.pfl_flower.data.named_text import VOCABULARY

HERE = "tests.pfl_flower.data.named_text"
TEXTS = {"dataset": f"{HERE}:load", "baselines": "", "num-server-rounds": 1, "method": "fedper"}


def run(tmp_path, **config):
    settings = TEXTS | {"personal-dir": str(tmp_path / "device"), "learning-rate": 0.3} | config
    return simulate(RunConfig.used(settings), 3)[0]


def headless(folder):
    """Write a folder with a BERT without a pooler."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 16, "max_position_embeddings": 32}
    config = transformers.BertConfig(vocab_size=VOCABULARY, **sizes)
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    return folder


def as_judged(found, rows, targets):
    right = np.mean([int(row["prediction"]) == y for row, y in zip(rows, targets, strict=True)])
    return right == pytest.approx(found.by_client()[1], abs=1e-9)


@pytest.mark.integration
def test_lora_of_a_library_predicts_what_the_client_was_judged_by(tmp_path, caplog):
    pytest.importorskip("peft")
    folder = headless(tmp_path / "bert")
    config = {"model": f"hf:{folder}", "pretrained": True, "trainable": "lora"}
    found = run(tmp_path, **config, **{"lora-targets": "*dense", "lora-rank": 2})
    inputs, targets = own_test(found)
    model = exported(tmp_path)
    inputs = np.pad(inputs, ((0, 0), (0, 0), (0, 1)))  # to the longest text of all clients
    layers = json.loads(read_model(model).about[ARGUMENTS])["lora_layers"]
    assert layers
    assert not any("pooler" in layer for layer in layers)
    (folder / "model.safetensors").unlink()  # all values are in the exported file
    caplog.clear()
    assert as_judged(found, predicted(tmp_path, model, inputs), targets)
    assert not [each for each in caplog.records if each.levelname == "WARNING"]


@pytest.mark.integration
def test_inputs_of_a_file_come_by_name(tmp_path, monkeypatch, capsys):
    found = run(tmp_path, model=f"{HERE}:Text")
    inputs, targets = own_test(found)
    model = exported(tmp_path)
    file = tmp_path / "texts.npz"
    np.savez(file, attention_mask=inputs[:, 1].astype(np.uint8), input_ids=inputs[:, 0])
    kept = []
    table = commands.table
    monkeypatch.setattr(commands, "table", lambda rows: kept.append(rows) or table(rows))
    use = ["predict", "--model", str(model), "--inputs", str(file), "--network", f"{HERE}:Text"]
    assert main(use) == 0
    assert as_judged(found, kept[0], targets)
    inputs[0, 0, 0] = VOCABULARY
    np.savez(file, attention_mask=inputs[:, 1], input_ids=inputs[:, 0])
    assert main(use) == 2
    assert str(VOCABULARY) in capsys.readouterr().err


def test_arrays_by_name_are_stacked_in_the_models_order_and_padded(tmp_path):
    file, names = tmp_path / "x.npz", ("input_ids", "attention_mask")
    ids, mask = np.array([[3, 4], [5, 0]], dtype=np.uint8), np.array([[1, 1], [1, 0]])
    np.savez(file, attention_mask=mask, input_ids=ids)
    found = read_examples(file, (2, 3), names=names).inputs
    assert found.tolist() == [[[3, 4, 0], [1, 1, 0]], [[5, 0, 0], [1, 0, 0]]]
    for bad in ({"input_ids": ids}, {"input_ids": ids, "attention_mask": mask[:1]}):
        np.savez(file, **bad)
        with pytest.raises(ExampleFileError) as error:
            read_examples(file, (2, 3), names=names)
        assert error.value.expected == names
