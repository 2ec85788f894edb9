"""An exported model predicts what the client's model predicts on its device."""

import csv
import io
import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from clients import __main__ as commands
from clients.__main__ import main
from clients.export.example_files import ExampleFileError, read_examples
from clients.export.export import export_model
from clients.export.model_card import MEASUREMENTS, NETWORK, TRUSTED, ExportError
from clients.export.predict import build_network, preprocessing_of, table
from clients.export.table_form import TableForm
from clients.export.whose import rows_of_others
from clients.state import personal_state
from clients.state.model_file import PersonalizedModel, model_files, read_model, write_model
from clients.state.state_file import CorruptStateError, ForeignStateError, PersonalStateError
from pfl_flower.client.model_card import rebuild
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import federation
from pfl_flower.engines import simulate
from tests.clients.export.device_models import exported, own_test, predicted
from tests.errors import refused

SMALL = {"num-server-rounds": 2, "local-epochs": 1, "baselines": "", "heterogeneity": "none"}


def run(tmp_path, **config):
    settings = SMALL | {"personal-dir": str(tmp_path / "device")} | config
    return simulate(RunConfig.used(settings), 3)[0]


def test_a_model_of_a_table_finds_its_columns_by_name(tmp_path):
    rows = np.random.default_rng(0).normal(size=(90, 2)) * (10, 1) + (40, 5)
    lines = [f"{w:.3f},{i % 3},{int(w > 5)},{a:.3f}" for i, (a, w) in enumerate(rows)]
    (tmp_path / "wards.csv").write_text("\n".join(["weight,client,label,age", *lines]) + "\n")
    run(tmp_path, method="fedper", dataset=f"table:{tmp_path / 'wards.csv'}")
    model = exported(tmp_path)
    new = [{"age": a, "patient": f"p{i}", "weight": w} for i, (a, w) in enumerate(rows[:9])]
    answers = []
    for order in (["age", "patient", "weight"], ["weight", "age", "patient"]):
        with (tmp_path / "x.csv").open("w") as stream:
            writer = csv.DictWriter(stream, order)
            writer.writeheader()
            writer.writerows(new)
        out = tmp_path / "answers.csv"
        use = ["--model", str(model), "--inputs", str(tmp_path / "x.csv"), "--out", str(out)]
        assert main(["predict", *use]) == 0
        answers.append(out.read_text())
    assert answers[0] == answers[1]
    assert answers[0].startswith("patient,prediction,probability-0,probability-1\np0,")


@pytest.mark.parametrize(
    "config",
    [
        {"method": "fedper", "dataset": "breast-cancer"},
        {"method": "fedavg"},
        {"method": "fedavg-ft", "dataset": "breast-cancer"},
        {"method": "apfl", "dataset": "breast-cancer"},
        {"method": "hierarchical-bayes", "dataset": "breast-cancer"},
        {"method": "fedbn"},
    ],
)
def test_it_predicts_what_the_client_was_judged_by(tmp_path, config):
    found = run(tmp_path, **config)
    inputs, targets = own_test(found)
    rows = predicted(tmp_path, exported(tmp_path), inputs)
    right = np.mean([int(row["prediction"]) == y for row, y in zip(rows, targets, strict=True)])
    assert right == pytest.approx(found.by_client()[1], abs=1e-9)
    assert sum(float(v) for k, v in rows[0].items() if k != "prediction") == pytest.approx(1)


@pytest.mark.parametrize("method", ["fedper", "hierarchical-linear"])
def test_numbers_come_in_their_own_unit(tmp_path, method):
    found = run(tmp_path, method=method, dataset="diabetes")
    inputs, targets = own_test(found)
    rows = predicted(tmp_path, exported(tmp_path), inputs)
    errors = np.array([float(row["prediction"]) for row in rows]) - targets
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(found.by_client()[1], rel=1e-4)


def test_a_calibration_is_part_of_the_model(tmp_path):
    config = {"method": "errors-in-variables", "dataset": "breast-cancer", "noise": 0.5}
    found = run(tmp_path, **config)
    data = federation(found.config.data, 3).client(1, found.config.schema)
    model = read_model(exported(tmp_path))
    outputs = build_network(model)(data.test[0])
    right = (outputs.argmax(dim=1) == data.test[1]).double().mean()
    assert float(right) == pytest.approx(found.by_client()[1], abs=1e-9)


def test_thresholds_of_its_own_decide(tmp_path):
    found = run(tmp_path, method="fedper", dataset="breast-cancer", threshold="personal")
    inputs, targets = own_test(found)
    rows = predicted(tmp_path, exported(tmp_path), inputs)
    right = np.mean([int(row["prediction"]) == y for row, y in zip(rows, targets, strict=True)])
    (report,) = [r for r in found.thresholds if r.client == 1]
    assert right == pytest.approx(report.metrics["accuracy-personal"])


class Own(nn.Module):
    def __init__(self, size=3):
        super().__init__()
        self.layer = nn.Linear(size, 2)

    def forward(self, inputs):
        return self.layer(inputs)


def build_own(shape, outputs):
    return Own(shape[0])


def stored(tmp_path, **about):
    words = {"shape": "[3]", "outputs": "2", "labels": '["well", "ill"]', **about}
    model = PersonalizedModel(Own().state_dict(), 4, words, {})
    path = tmp_path / "own.model.safetensors"
    write_model(path, model)
    return path, model


def uncounted(shape, outputs):
    norm = nn.BatchNorm1d(shape[0])
    norm.register_buffer("num_batches_tracked", None)
    return norm


def test_batch_norm_that_counts_nothing_is_loaded():
    entries = {name: value + 1 for name, value in uncounted((3,), 2).state_dict().items()}
    model = PersonalizedModel(entries, 4, {"shape": "[3]", "outputs": "2"}, {})
    network = build_network(model, "tests.clients.export.test_export:uncounted")
    assert network.state_dict().keys() == entries.keys()
    assert torch.equal(network.running_var, entries["running_var"])


def test_code_is_trusted_from_the_user_only(tmp_path, capsys):
    path, model = stored(tmp_path, **{NETWORK: "tests.clients.export.test_export:build_own"})
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    words = ["predict", "--model", str(path), "--inputs", str(tmp_path / "x.npy")]
    assert main(words) == 2
    assert "--network tests.clients.export.test_export:build_own" in capsys.readouterr().err
    assert main([*words, "--network", "tests.clients.export.test_export:build_own"]) == 0
    assert capsys.readouterr().out.startswith("prediction,probability-well,probability-ill\n")
    network = build_network(model, "tests.clients.export.test_export:build_own")
    assert torch.equal(network.layer.weight, model.entries["layer.weight"])
    assert not network.training
    for missing in ("tests.clients.export.test_export:missing", "no_such_module:f", "no colon"):
        with pytest.raises(ExportError) as raised:
            build_network(model, missing)
        assert (raised.value.key, raised.value.value) == (NETWORK, missing)


def reads_a_base(shape, outputs):
    raise FileNotFoundError(2, "No such file or directory", "base.safetensors")


def test_a_function_that_fails_is_named_with_its_error(tmp_path, capsys, monkeypatch):
    path, model = stored(tmp_path)
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    (tmp_path / "reads_at_import.py").write_text("open('nowhere/base.safetensors')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("tests.clients.export.test_export:reads_a_base", "reads_at_import:network"):
        with refused(ExportError, key=NETWORK, value=name) as caught:
            build_network(model, name)
        assert isinstance(caught.value.__cause__, FileNotFoundError)
        words = ["predict", "--model", str(path), "--inputs", str(tmp_path / "x.npy")]
        assert main([*words, "--network", name]) == 2
        assert "base.safetensors" in capsys.readouterr().err
    shapeless = replace(model, about={"outputs": "2"})
    with refused(ExportError, key="shape"):
        build_network(shapeless, "tests.clients.export.test_export:reads_a_base")


def called(**_):
    raise AssertionError("a file has had code run")


@pytest.mark.parametrize(
    ("network", "arguments"),
    [
        ("pfl_flower.models:build_model", {}),
        ("pfl_flower.client.model_card:build_model", {}),
        ("tests.clients.export.test_export:called", {}),
        (TRUSTED, {"model": "tests.clients.export.test_export:called"}),
    ],
)
def test_a_file_has_no_code_run(tmp_path, capsys, network, arguments):
    values = json.dumps({"shape": [3], "num_classes": 2} | arguments)
    path, _ = stored(tmp_path, **{NETWORK: network, "network-arguments": values})
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    assert main(["predict", "--model", str(path), "--inputs", str(tmp_path / "x.npy")]) == 2
    words = capsys.readouterr().err
    assert f"--network {network}" in words or "network-arguments" in words
    model = read_model(path)
    with pytest.raises(ExportError) as raised:
        build_network(model)
    assert raised.value.key == ("network-arguments" if network == TRUSTED else NETWORK)


def test_the_trusted_function_exists():
    assert f"{rebuild.__module__}:{rebuild.__name__}" == TRUSTED


def npy(values):
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def npz(**values):
    stream = io.BytesIO()
    np.savez(stream, **values)
    return stream.getvalue()


UNREADABLE = {"value": None, "expected": None}


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("x.npy", npy(np.ones((2, 4))), {"value": (4,), "expected": (3,)}),
        ("x.npy", npy(np.full((2, 3), np.nan)), {"row": 1, "value": math.nan}),
        ("x.npy", npy(np.full((2, 3), 1e300)), {"row": 1, "value": math.inf}),
        ("x.npy", npy(np.array([["a", "b", "c"]])), {"value": "<U1", "expected": "numbers"}),
        ("x.npy", npy(np.array([[{}] * 3])), UNREADABLE),
        ("x.npy", b"", UNREADABLE),
        ("x.npz", b"PK\3\4 no archive", UNREADABLE),
        ("x.npy", npz(y=np.ones((2, 3))), UNREADABLE),
        ("x.npz", None, UNREADABLE),
        ("x.csv", b"1,2,3\n4,5,6\n", {"row": 0, "value": ["1", "2", "3"]}),
        ("x.csv", b"a,b,c\n1,,3\n", {"row": 1, "value": math.nan}),
        ("x.csv", b"a,b,c\n1,2,3\n1,nan,3\n", {"row": 2, "value": math.nan}),
        ("x.csv", b"a,b,c\n1,well,3\n", {"row": 1, "columns": ("b",), "value": "well"}),
        ("x.csv", b"a,b\n1,2\n", {"value": (2,), "expected": (3,)}),
        ("x.csv", b"a,b,c\n1,2,3\n1,2\n", {"row": 2, "value": 2, "expected": 3}),
        ("x.csv", b"\xff\xfe\n", UNREADABLE),
    ],
)
def test_inputs_that_do_not_fit(tmp_path, capsys, name, content, found):
    path, _ = stored(tmp_path, **{NETWORK: "x:y"})
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ExampleFileError) as raised:
        read_examples(tmp_path / name, (3,))
    assert raised.value.path == tmp_path / name
    assert attributes(raised.value, found) == repr(found)  # NaN is not equal to itself
    assert (raised.value.__cause__ is not None) == (found is UNREADABLE)
    network = ["--network", "tests.clients.export.test_export:build_own"]
    inputs = ["--inputs", str(tmp_path / name)]
    assert main(["predict", "--model", str(path), *inputs, *network]) == 2
    assert str(tmp_path / name) in capsys.readouterr().err


def attributes(error, names):
    """The attributes of an error with these names, in words."""
    return repr({name: getattr(error, name) for name in names})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", b"a,b,c\n1,2,3\n"),
        ("x.csv", b"a,b,c\n\n1,2,3\n\n"),
        ("x.csv", b"a,b,c\nTrue,2,3\n"),
        ("x.csv", b"a,b,c\n TRUE,2,3\n"),
        ("x.CSV", b"\xef\xbb\xbfa,b,c\r\n1,2,3\r\n"),
        ("x.npy", npy(np.array([[1, 2, 3]]))),
        ("x.npy", npz(x=np.array([[1.0, 2.0, 3.0]]))),
    ],
)
def test_inputs_come_in_several_forms(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    found = read_examples(tmp_path / name, (3,)).inputs
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[1.0, 2.0, 3.0]])


def test_pixels_become_0_to_1_and_no_examples_give_no_predictions(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[[0, 51, 255]]], np.uint8))  # one grey picture, 1 x 3
    found = read_examples(tmp_path / "x.npy", (1, 1, 3)).inputs
    np.testing.assert_allclose(found, [[[[0.0, 0.2, 1.0]]]])
    np.save(tmp_path / "x.npy", np.array([[0, 51, 255]], np.uint8))  # numbers, no pixels
    np.testing.assert_array_equal(read_examples(tmp_path / "x.npy", (3,)).inputs, [[0, 51, 255]])
    (tmp_path / "x.csv").write_text("a,b,c\n")
    assert read_examples(tmp_path / "x.csv", (3,)).inputs.shape == (0, 3)
    assert table([]) == "prediction\n"


def test_columns_are_known_by_their_names(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("patient,weight,age\nAda,61.5,36\nAlan,70,41\n")
    found = read_examples(path, (2,), TableForm(("age", "weight")))
    np.testing.assert_array_equal(found.inputs, [[36, 61.5], [41, 70]])
    assert found.others == [{"patient": "Ada"}, {"patient": "Alan"}]
    np.save(tmp_path / "x.npy", np.array([[36, 61]], np.uint8))  # ages, no pixels
    same = read_examples(tmp_path / "x.npy", (2,), TableForm(("age", "weight")))
    np.testing.assert_array_equal(same.inputs, [[36, 61]])


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("age,height\n1,2\n", {"columns": ("weight",), "expected": ["age", "weight"]}),
        ("36,61\n41,70\n", {"row": 0, "value": ["36", "61"]}),
        ("age,weight\n1,heavy\n", {"row": 1, "columns": ("weight",), "value": "heavy"}),
        ("age,weight\n1,2\n3\n", {"row": 2, "value": 1, "expected": 2}),
        ("age,weight\n1,\n", {"row": 1, "value": math.nan}),
        ("age,age,weight\n1,2,3\n", {"columns": ("age",), "expected": None}),
        (" age,age ,weight\n1,2,3\n", {"columns": ("age",), "expected": ["age", "weight"]}),
        ("age,weight,,\n1,2,3,4\n", {"columns": ("",), "expected": None}),
        ("ward,weight,ward,age\n1,2,3,4\n", {"columns": ("ward",), "expected": None}),
        ('age,weight\n1,"' + "2" * 200_000 + '"\n', UNREADABLE),
    ],
)
def test_tables_that_a_model_cannot_take(tmp_path, content, found):
    path = tmp_path / "x.csv"
    path.write_text(content)
    with pytest.raises(ExampleFileError) as raised:
        read_examples(path, (2,), TableForm(("age", "weight")))
    assert raised.value.path == path
    assert attributes(raised.value, found) == repr(found)  # NaN is not equal to itself
    assert (raised.value.__cause__ is not None) == (found is UNREADABLE)


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (" age, weight", ("age", "weight")),
        ("age, weight", ("age", " weight")),
        ("age,weight", (" age", "weight ")),
        ("2020,nan", ("2020", "nan")),
        ("age,2020,weight", ("age", "weight")),
        ("age,age ", ("age", "age ")),
    ],
)
def test_columns_may_be_called_what_a_table_may_call_them(tmp_path, names, columns):
    path = tmp_path / "x.csv"
    path.write_text(f"{names}\n36,41,61\n" if "20,w" in names else f"{names}\n36,61\n")
    np.testing.assert_array_equal(read_examples(path, (2,), TableForm(columns)).inputs, [[36, 61]])


def test_a_column_does_not_stand_for_two(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("age,weight\n1,2\n")
    with pytest.raises(ExampleFileError) as raised:
        read_examples(path, (2,), TableForm(("age", "age ")))
    assert (raised.value.columns, raised.value.expected) == (("age",), ["age", "age "])


@pytest.mark.parametrize("columns", [(), ("age",)])
def test_a_blank_line_of_one_column_is_a_missing_value(tmp_path, columns):
    path = tmp_path / "x.csv"
    path.write_text("age\n1\n\n3\n")
    with pytest.raises(ExampleFileError) as raised:
        read_examples(path, (1,), TableForm(columns))
    assert raised.value.row == 2
    assert math.isnan(raised.value.value)
    path.write_text("age\n1\n3\n\n\n")
    np.testing.assert_array_equal(read_examples(path, (1,), TableForm(columns)).inputs, [[1], [3]])


def test_columns_without_names_that_matter_are_taken_by_their_places(tmp_path):
    path = tmp_path / "x.csv"
    for names in ("a,a,b", ",,"):
        path.write_text(f"{names}\n1,2,3\n")
        np.testing.assert_array_equal(read_examples(path, (3,)).inputs, [[1, 2, 3]])
    for example in ("1,,3", "1,2,x", "nan,2,3", "a,2,3"):  # the first line may be an example
        path.write_text(f"{example}\n1,2,3\n")
        with pytest.raises(ExampleFileError) as raised:
            read_examples(path, (3,))
        assert raised.value.row == 0


def test_columns_of_a_spreadsheet_that_are_empty_are_none(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("\nage,weight,,\n36,61,,\n")
    found = read_examples(path, (2,), TableForm(("age", "weight")))
    np.testing.assert_array_equal(found.inputs, [[36, 61]])
    assert found.others == []
    path.write_text(",age,weight\nAda,36,61\n")  # what pandas makes of an index
    assert read_examples(path, (2,), TableForm(("age", "weight"))).others == [{"": "Ada"}]


OWN = ["--network", "tests.clients.export.test_export:build_own"]


@pytest.mark.parametrize(
    "about",
    [
        {"shape": "?"},
        {"outputs": "?"},
        {"labels": "?"},
        {"labels": '["well"]'},
        {"scales": "?"},
        {"shape": "5"},
        {"columns": "5"},
        {"labels": "2"},
    ],
)
def test_a_model_card_that_says_too_little_is_an_error(tmp_path, capsys, monkeypatch, about):
    path, _ = stored(tmp_path, **about)
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    use = ["predict", "--model", str(path), "--inputs", str(tmp_path / "x.npy"), *OWN]
    assert main(use) == 2
    ((key, value),) = about.items()
    assert key in capsys.readouterr().err
    monkeypatch.setattr(commands, "ExportError", KeyError)  # so that it is not caught
    with pytest.raises(ExportError) as raised:
        main(use)
    found = raised.value.value
    assert (raised.value.key, json.dumps(found) if found == ["well"] else found) == (key, value)


def test_predictions_replace_older_ones_at_once_and_are_the_owners_alone(tmp_path, capsys):
    path, _ = stored(tmp_path)
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    out = tmp_path / "out.csv"
    out.write_text("older")
    use = ["predict", "--model", str(path), "--inputs", str(tmp_path / "x.npy"), *OWN, "--out"]
    assert main([*use, str(out)]) == 0
    assert out.read_text().count("\n") == 3
    assert out.stat().st_mode & 0o777 == 0o600
    for odd in (path / "out.csv", tmp_path, tmp_path / "missing" / "out.csv"):
        assert main([*use, str(odd)]) == 2
        assert "could not be written" in capsys.readouterr().err
    assert not (tmp_path / "missing").exists()


def test_predictions_go_where_a_link_leads_and_into_a_pipe(tmp_path, capsys):
    path, _ = stored(tmp_path)
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    use = ["predict", "--model", str(path), "--inputs", str(tmp_path / "x.npy"), *OWN, "--out"]
    out, link, pipe = (tmp_path / name for name in ("out.csv", "link.csv", "pipe"))
    out.write_text("older")
    link.symlink_to(out)
    assert main([*use, str(link)]) == 0
    assert link.is_symlink()
    assert out.read_text().count("\n") == 3
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert main([*use, str(pipe)]) == 0
    assert os.read(reader, 10_000).decode() == out.read_text()
    os.close(reader)
    reader, writer = os.pipe()  # as of "| cat", which has no name in any folder
    assert main([*use, f"/dev/fd/{writer}"]) == 0
    assert os.read(reader, 10_000).decode() == out.read_text()
    os.close(reader)
    os.close(writer)
    link.unlink()
    link.symlink_to(link)
    assert main([*use, str(link)]) == 0  # which leads nowhere


def test_columns_of_answers_are_not_those_of_the_table(tmp_path, capsys):
    path, _ = stored(tmp_path, columns='["a", "b", "c"]')
    (tmp_path / "x.csv").write_text("a,b,c,prediction,probability-ill\n1,2,3,well,0.5\n")
    use = ["predict", "--model", str(path), "--inputs", str(tmp_path / "x.csv"), *OWN]
    assert main(use) == 2
    assert "['prediction', 'probability-ill']" in capsys.readouterr().err


def test_hidden_files_of_others_are_left_alone(tmp_path):
    _, model = stored(tmp_path)
    for name in (".env.local", ".env.override"):
        (tmp_path / name).write_text("mine")
        os.utime(tmp_path / name, (0, 0))
    write_model(tmp_path / "env", model)
    assert (tmp_path / ".env.local").exists()
    assert (tmp_path / ".env.override").exists()


def test_thresholds_of_an_earlier_run_are_not_this_models(tmp_path):
    run(tmp_path, method="fedper", dataset="breast-cancer", threshold="personal")
    path = model_files(tmp_path / "device")["client-1"]
    assert read_model(path).thresholds
    run(tmp_path, method="fedper", dataset="breast-cancer")
    assert not read_model(path).thresholds


def test_a_method_that_keeps_nothing_is_not_stopped_by_what_another_kept(tmp_path):
    run(tmp_path, method="fedper", dataset="breast-cancer")
    own = tmp_path / "device" / "client-1.safetensors"
    kept = own.read_bytes()
    found = run(tmp_path, method="fedavg", dataset="breast-cancer")
    assert len(found.by_client()) == 3
    assert own.read_bytes() == kept


def test_whose_it_is_must_be_clear_and_nothing_is_overwritten(tmp_path):
    device = tmp_path / "device"
    with pytest.raises(PersonalStateError) as no_directory:
        export_model(device, "", tmp_path / "a")
    assert no_directory.value.path == device
    device.mkdir()
    with pytest.raises(ExportError) as raised:
        export_model(device, "", tmp_path / "a")
    assert (raised.value.path, raised.value.choices) == (device, ())
    for name in ("one", "two"):
        path, _ = stored(tmp_path)
        path.rename(device / f"{name}.model.safetensors")
    assert list(model_files(device)) == ["one", "two"]
    for client in ("", "three"):
        with pytest.raises(ExportError) as raised:
            export_model(device, client, tmp_path / "a")
        assert (raised.value.key, raised.value.value) == ("client", client)
        assert raised.value.choices == ("one", "two")
    assert export_model(device, "one", tmp_path / "a").round == 4
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    content = (tmp_path / "a").read_bytes()
    with pytest.raises(ExportError) as raised:
        export_model(device, "two", tmp_path / "a")
    assert raised.value.path == tmp_path / "a"
    assert (tmp_path / "a").read_bytes() == content


def clinics(tmp_path):
    """A table of three clinics, in whose order of words the last comes second."""
    draw = np.random.default_rng(0)
    names = ["Clinic 1", "Clinic 2", "Clinic 10"]
    lines = [f"{names[i % 3]},{int(a > 0)},{a:.3f}" for i, a in enumerate(draw.normal(size=90))]
    (tmp_path / "clinics.csv").write_text("\n".join(["clinic,label,age", *lines]) + "\n")
    columns = {"dataset": f"table:{tmp_path / 'clinics.csv'}", "client-column": "clinic"}
    return run(tmp_path, method="fedper", **columns)


def test_a_client_is_known_by_its_name(tmp_path, capsys):
    clinics(tmp_path)
    about = read_model(exported(tmp_path, "Clinic 2")).about
    assert (about["client"], about["name"], about["client-column"]) == (
        "client-1",
        "Clinic 2",
        "clinic",
    )
    assert "client-1 (Clinic 2)" in capsys.readouterr().out
    with refused(ExportError, key="client", value="Clinic 3", choices=("client-2",)) as error:
        export_model(tmp_path / "device", "Clinic 3", tmp_path / "a")
    assert "client-2 (Clinic 10)" in str(error.value)


def test_a_name_of_two_models_is_refused_until_the_file_is_named(tmp_path):
    (device := tmp_path / "device").mkdir()
    for file, name in (("client-0", "client-1"), ("client-1", "client-2"), ("client-10", "x")):
        path, model = stored(tmp_path)
        path.unlink()
        about = {**model.about, "name": name}
        write_model(device / f"{file}.model.safetensors", replace(model, about=about))
    files = ("client-0.model.safetensors", "client-1.model.safetensors")
    with refused(ExportError, key="client", value="client-1", choices=files):
        export_model(device, "client-1", tmp_path / "a")
    for file in files:
        found = export_model(device, file, tmp_path / f"of {file}")
        assert found.about["name"] == {"0": "client-1", "1": "client-2"}[file[7]]
    assert list(model_files(device)) == ["client-0", "client-1", "client-10"]


@pytest.mark.parametrize(
    ("name", "cells", "others"),
    [
        ("Clinic 2", ["Clinic 2", " Clinic 2 ", ""], {}),
        ("Clinic 2", ["Clinic 10", "Clinic 2", "Clinic 10"], {"Clinic 10": 2}),
        ("7", ["7", "007", "7.0", "8"], {"8": 1}),
        ("", ["Clinic 10"], {}),
    ],
)
def test_rows_of_other_clients_are_found(name, cells, others):
    model = PersonalizedModel({}, 0, {"name": name, "client-column": "clinic"}, {})
    assert rows_of_others(model, [{"clinic": cell} for cell in cells]) == others
    assert rows_of_others(model, [{"other": cell} for cell in cells]) == {}


def test_who_predicts_for_another_client_is_warned(tmp_path, capsys):
    clinics(tmp_path)
    model = exported(tmp_path, "Clinic 2")
    (tmp_path / "new.csv").write_text("clinic,age\nClinic 10,0.5\nClinic 2,0.5\n")
    capsys.readouterr()
    assert main(["predict", "--model", str(model), "--inputs", str(tmp_path / "new.csv")]) == 0
    answer = capsys.readouterr()
    assert answer.out.startswith("clinic,prediction,")
    assert "'Clinic 10'" in answer.err
    assert "Clinic 2" in answer.err
    (tmp_path / "new.csv").write_text("clinic,age\nClinic 2,0.5\n")
    assert main(["predict", "--model", str(model), "--inputs", str(tmp_path / "new.csv")]) == 0
    assert not capsys.readouterr().err


def test_a_damaged_or_another_file_is_not_used(tmp_path):
    path, _ = stored(tmp_path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptStateError) as damaged:
        read_model(path)
    assert (damaged.value.path, damaged.value.key) == (path, "checksum")
    run(tmp_path, method="fedper", dataset="breast-cancer")
    other = tmp_path / "device" / "client-0.safetensors"
    with pytest.raises(ForeignStateError) as foreign:
        read_model(other)
    assert (foreign.value.path, foreign.value.key) == (other, "format")
    assert (foreign.value.value, foreign.value.expected) == ("1", "model-2")


def test_files_of_the_first_format_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("clients.state.model_file.MODEL_FORMAT", "model-1")
    path, model = stored(tmp_path)
    found = read_model(path)
    assert found.about["format"] == "model-1"
    assert torch.equal(found.entries["layer.weight"], model.entries["layer.weight"])
    assert (found.draws, found.preprocessing) == ({}, {})


def test_half_a_preprocessing_is_refused(tmp_path):
    _, model = stored(tmp_path)
    assert preprocessing_of(model) is None
    half = replace(model, preprocessing={"fill": torch.zeros(3)})
    with refused(ExportError, key="preprocessing", value=["fill"]):
        preprocessing_of(half)


def test_a_disk_that_refuses_the_whole_model_costs_nothing_else(tmp_path, monkeypatch):
    def full(path, model, apart):
        raise PersonalStateError("no space left on device")

    monkeypatch.setattr(personal_state, "write_model", full)
    found = run(tmp_path, method="fedper", dataset="breast-cancer")
    assert len(found.by_client()) == 3
    assert not model_files(tmp_path / "device")
    assert (tmp_path / "device" / "client-0.safetensors").exists()


def test_a_file_that_cannot_repeat_what_was_done_to_examples_is_not_used(tmp_path, capsys):
    words = {MEASUREMENTS: "filled in (mean)", NETWORK: "x:y"}
    path, _ = stored(tmp_path, **words)  # as files of the first format were
    np.save(tmp_path / "x.npy", np.ones((1, 3)))
    assert main(["predict", "--model", str(path), "--inputs", str(tmp_path / "x.npy")]) == 2
    assert words[MEASUREMENTS] in capsys.readouterr().err
