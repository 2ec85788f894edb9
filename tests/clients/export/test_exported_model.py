"""A client's whole model, taken off its device, says what the client's own model says."""

import csv
import io
import json
import os
import re

import numpy as np
import pytest
import torch
from torch import nn

from clients.__main__ import main
from clients.export.example_files import ExampleFileError, read_examples
from clients.export.exported_model import (
    NETWORK,
    TRUSTED,
    ExportError,
    network_of,
    table,
    take_out,
)
from clients.state.model_file import PersonalizedModel, model_files, read_model, write_model
from pfl_flower.client.model_card import rebuild
from pfl_flower.data import federation
from pfl_flower.engines import simulate

SMALL = {"num-server-rounds": 2, "local-epochs": 1, "baselines": "", "heterogeneity": "none"}


def run(tmp_path, **config):
    settings = SMALL | {"personal-dir": str(tmp_path / "device")} | config
    return simulate(settings, 3)[0]


def exported(tmp_path, client="client-1"):
    target = tmp_path / "model.safetensors"
    command = ["export", "--personal-dir", str(tmp_path / "device"), "--out", str(target)]
    assert main([*command, "--client", client]) == 0
    return target


def predicted(tmp_path, model, inputs):
    np.savez(tmp_path / "inputs.npz", x=inputs)
    out = tmp_path / "predictions.csv"
    paths = ["--model", str(model), "--inputs", str(tmp_path / "inputs.npz"), "--out", str(out)]
    assert main(["predict", *paths]) == 0
    with out.open() as stream:
        return list(csv.DictReader(stream))


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


def own_test(run, client=1):
    """The client's test examples as they are before anything is done to them."""
    return federation(run.config.data, 3)._load(client).test


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
    outputs = network_of(model)(data.test[0])
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


def test_code_is_believed_from_who_runs_it_only(tmp_path, capsys):
    path, model = stored(
        tmp_path, **{NETWORK: "tests.clients.export.test_exported_model:build_own"}
    )
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    words = ["predict", "--model", str(path), "--inputs", str(tmp_path / "x.npy")]
    assert main(words) == 2
    assert "a file is not believed about code" in capsys.readouterr().err
    assert main([*words, "--network", "tests.clients.export.test_exported_model:build_own"]) == 0
    assert capsys.readouterr().out.startswith("prediction,probability-well,probability-ill\n")
    network = network_of(model, "tests.clients.export.test_exported_model:build_own")
    assert torch.equal(network.layer.weight, model.entries["layer.weight"])
    assert not network.training
    with pytest.raises(ExportError, match="names no function"):
        network_of(model, "tests.clients.export.test_exported_model:missing")


def called(**_):
    raise AssertionError("a file has had code run")


@pytest.mark.parametrize(
    ("network", "arguments"),
    [
        ("pfl_flower.models:build_model", {}),
        ("pfl_flower.client.model_card:build_model", {}),
        ("tests.clients.export.test_exported_model:called", {}),
        (TRUSTED, {"model": "tests.clients.export.test_exported_model:called"}),
    ],
)
def test_a_file_has_no_code_run(tmp_path, capsys, network, arguments):
    values = json.dumps({"shape": [3], "num_classes": 2} | arguments)
    path, _ = stored(tmp_path, **{NETWORK: network, "network-arguments": values})
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    assert main(["predict", "--model", str(path), "--inputs", str(tmp_path / "x.npy")]) == 2
    words = capsys.readouterr().err
    assert "not believed about code" in words or "is no model of this app" in words


def test_the_function_that_is_believed_is_there():
    assert f"{rebuild.__module__}:{rebuild.__name__}" == TRUSTED


def npy(values):
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def npz(**values):
    stream = io.BytesIO()
    np.savez(stream, **values)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.npy", npy(np.ones((2, 4))), r"have shape \(4,\); the model takes \(3,\)"),
        ("x.npy", npy(np.full((2, 3), np.nan)), "lacks values"),
        ("x.npy", npy(np.full((2, 3), 1e300)), "lacks values"),
        ("x.npy", npy(np.array([["a", "b", "c"]])), "holds <U1; examples are made of numbers"),
        ("x.npy", npy(np.array([[{}] * 3])), "cannot be read"),
        ("x.npy", b"", "cannot be read"),
        ("x.npz", b"PK\3\4 no archive", "cannot be read"),
        ("x.npy", npz(y=np.ones((2, 3))), "cannot be read: .*x is not a file"),
        ("x.npz", None, "cannot be read"),
        ("x.csv", b"1,2,3\n4,5,6\n", "its first line must name the columns"),
        ("x.csv", b"a,b,c\n1,,3\n", "lacks values"),
        ("x.csv", b"a,b,c\n1,nan,3\n", "lacks values"),
        ("x.csv", b"a,b,c\n1,well,3\n", "cannot be read"),
        ("x.csv", b"a,b\n1,2\n", r"have shape \(2,\)"),
        ("x.csv", b"a,b,c\n1,2,3\n1,2\n", "cannot be read"),
        ("x.csv", b"\xff\xfe\n", "cannot be read"),
    ],
)
def test_inputs_that_do_not_fit(tmp_path, capsys, name, content, words):
    path, _ = stored(tmp_path, **{NETWORK: "x:y"})
    if content is not None:
        (tmp_path / name).write_bytes(content)
    network = ["--network", "tests.clients.export.test_exported_model:build_own"]
    inputs = ["--inputs", str(tmp_path / name)]
    assert main(["predict", "--model", str(path), *inputs, *network]) == 2
    assert re.search(words, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", b"a,b,c\n1,2,3\n"),
        ("x.csv", b"a,b,c\n\n1,2,3\n\n"),
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
    np.save(tmp_path / "x.npy", np.array([[0, 51, 255]], np.uint8))
    np.testing.assert_allclose(read_examples(tmp_path / "x.npy", (3,)).inputs, [[0.0, 0.2, 1.0]])
    (tmp_path / "x.csv").write_text("a,b,c\n")
    assert read_examples(tmp_path / "x.csv", (3,)).inputs.shape == (0, 3)
    assert table([]) == "prediction\n"


def test_columns_are_known_by_their_names(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("patient,weight,age\nAda,61.5,36\nAlan,70,41\n")
    found = read_examples(path, (2,), ("age", "weight"))
    np.testing.assert_array_equal(found.inputs, [[36, 61.5], [41, 70]])
    assert found.others == [{"patient": "Ada"}, {"patient": "Alan"}]
    np.save(tmp_path / "x.npy", np.array([[36, 61]], np.uint8))  # ages, no pixels
    same = read_examples(tmp_path / "x.npy", (2,), ("age", "weight"))
    np.testing.assert_array_equal(same.inputs, [[36, 61]])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("age,height\n1,2\n", "lacks the columns ['weight']; the model takes ['age', 'weight']"),
        ("36,61\n41,70\n", "first line must name the columns"),
        ("age,weight\n1,heavy\n", "row 1 has 'heavy' in column 'weight', which is no number"),
        ("age,weight\n1,2\n3\n", "row 2 has 1 values for 2 columns"),
        ("age,weight\n1,\n", "lacks values"),
        ("age,age,weight\n1,2,3\n", "it has the columns ['age'] more than once"),
        (" age,age ,weight\n1,2,3\n", "lacks the columns ['age']"),
        ("age,weight,,\n1,2,3,4\n", "it has the columns [''] more than once"),
        ("ward,weight,ward,age\n1,2,3,4\n", "it has the columns ['ward'] more than once"),
        ('age,weight\n1,"' + "2" * 200_000 + '"\n', "field larger than field limit"),
    ],
)
def test_tables_that_a_model_cannot_take(tmp_path, content, words):
    path = tmp_path / "x.csv"
    path.write_text(content)
    with pytest.raises(ExampleFileError, match=re.escape(words)):
        read_examples(path, (2,), ("age", "weight"))


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
    np.testing.assert_array_equal(read_examples(path, (2,), columns).inputs, [[36, 61]])


def test_a_column_does_not_stand_for_two(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("age,weight\n1,2\n")
    with pytest.raises(ExampleFileError, match="would stand for two of"):
        read_examples(path, (2,), ("age", "age "))


@pytest.mark.parametrize("columns", [(), ("age",)])
def test_a_blank_line_of_one_column_is_a_missing_value(tmp_path, columns):
    path = tmp_path / "x.csv"
    path.write_text("age\n1\n\n3\n")
    with pytest.raises(ExampleFileError, match="lacks values"):
        read_examples(path, (1,), columns)
    path.write_text("age\n1\n3\n\n\n")
    np.testing.assert_array_equal(read_examples(path, (1,), columns).inputs, [[1], [3]])


def test_columns_without_names_that_matter_are_taken_by_their_places(tmp_path):
    path = tmp_path / "x.csv"
    for names in ("a,a,b", ",,"):
        path.write_text(f"{names}\n1,2,3\n")
        np.testing.assert_array_equal(read_examples(path, (3,)).inputs, [[1, 2, 3]])
    for example in ("1,,3", "1,2,x", "nan,2,3", "a,2,3"):  # the first line may be an example
        path.write_text(f"{example}\n1,2,3\n")
        with pytest.raises(ExampleFileError, match="its first line must name the columns"):
            read_examples(path, (3,))


def test_columns_of_a_spreadsheet_that_are_empty_are_none(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("\nage,weight,,\n36,61,,\n")
    found = read_examples(path, (2,), ("age", "weight"))
    np.testing.assert_array_equal(found.inputs, [[36, 61]])
    assert found.others == []
    path.write_text(",age,weight\nAda,36,61\n")  # what pandas makes of an index
    assert read_examples(path, (2,), ("age", "weight")).others == [{"": "Ada"}]


OWN = ["--network", "tests.clients.export.test_exported_model:build_own"]


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"shape": "?"}, "does not say the shape of its model"),
        ({"outputs": "?"}, "does not say the outputs of its model"),
        ({"labels": "?"}, "does not say the labels of its model"),
        ({"labels": '["well"]'}, "names 1 classes; its network has 2 outputs"),
        ({"scales": "?"}, "does not say the scales of its model"),
        ({"shape": "5"}, "does not say the shape of its model"),
        ({"columns": "5"}, "does not say the columns of its model"),
        ({"labels": "2"}, "does not say the labels of its model"),
    ],
)
def test_a_file_that_says_too_little_is_told_what(tmp_path, capsys, about, words):
    path, _ = stored(tmp_path, **about)
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    use = ["predict", "--model", str(path), "--inputs", str(tmp_path / "x.npy"), *OWN]
    assert main(use) == 2
    assert words in capsys.readouterr().err


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
    assert (
        "has columns ['prediction', 'probability-ill'], as the answers" in capsys.readouterr().err
    )


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
    with pytest.raises(RuntimeError, match="there is no directory"):
        take_out(device, "", tmp_path / "a")
    device.mkdir()
    with pytest.raises(ExportError, match="holds no whole model"):
        take_out(device, "", tmp_path / "a")
    for name in ("one", "two"):
        path, _ = stored(tmp_path)
        path.rename(device / f"{name}.model.safetensors")
    assert list(model_files(device)) == ["one", "two"]
    with pytest.raises(ExportError, match="--client is one of one, two"):
        take_out(device, "", tmp_path / "a")
    with pytest.raises(ExportError, match="no model of 'three'"):
        take_out(device, "three", tmp_path / "a")
    assert take_out(device, "one", tmp_path / "a").round == 4
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    with pytest.raises(ExportError, match="there already"):
        take_out(device, "two", tmp_path / "a")


def test_a_damaged_or_another_file_is_not_used(tmp_path):
    path, _ = stored(tmp_path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RuntimeError, match="the model file is damaged"):
        read_model(path)
    run(tmp_path, method="fedper", dataset="breast-cancer")
    with pytest.raises(RuntimeError, match="the file of a whole model ends in"):
        read_model(tmp_path / "device" / "client-0.safetensors")


def test_a_disk_that_refuses_the_whole_model_costs_nothing_else(tmp_path, monkeypatch):
    from clients import state
    from clients.state.state_file import PersonalStateError

    def full(path, model):
        raise PersonalStateError("no space left on device")

    monkeypatch.setattr(state, "write_model", full)
    found = run(tmp_path, method="fedper", dataset="breast-cancer")
    assert len(found.by_client()) == 3
    assert not model_files(tmp_path / "device")
    assert (tmp_path / "device" / "client-0.safetensors").exists()


def test_filled_in_readings_are_said(tmp_path, capsys):
    config = {"dataset": "breast-cancer", "missing": 0.2, "imputation": "mean"}
    run(tmp_path, method="fedper", **config)
    model = exported(tmp_path)
    assert json.loads(read_model(model).about["shape"]) == [30]
    np.save(tmp_path / "x.npy", np.ones((1, 30)))
    assert main(["predict", "--model", str(model), "--inputs", str(tmp_path / "x.npy")]) == 2
    assert "readings are filled in (mean) before its model sees them" in capsys.readouterr().err
