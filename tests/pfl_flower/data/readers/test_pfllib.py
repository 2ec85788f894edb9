import codecs
import os
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pfl_flower.data import DataError
from pfl_flower.data.readers.pfllib import convert, main, read_pickled
from pfl_flower.data.readers.registry import OWN, OwnRequest

REAL = Path(os.environ.get("PFL_DATA_DIR", "nowhere")) / "fashion-mnist-dirichlet"


def client(seed, count):
    draw = np.random.default_rng(seed)
    return {"x": draw.normal(size=(count, 1, 4, 4)), "y": draw.integers(0, 3, count)}


def write(folder, clients=3):
    """A data set as PFLlib writes it: every file a pickled dict."""
    for seed, (split, count) in enumerate((("train", 5), ("test", 2))):
        (folder / split).mkdir(parents=True)
        for i in range(clients):
            np.savez_compressed(folder / split / f"{i}.npz", data=client(10 * i + seed, count))
    return folder


def npz(file, content, protocol, old=False):
    """A ``.npz`` with one pickled object, of a chosen protocol and maybe from numpy 1."""
    array = np.empty((), dtype=object)
    array[()] = content
    pickled = pickle.dumps(array, protocol=protocol)
    if old:
        assert b"numpy._core" in pickled
        pickled = pickled.replace(b"numpy._core", b"numpy.core")
    with zipfile.ZipFile(file, "w") as archive, archive.open("data.npy", "w") as stream:
        header = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.write(pickled)
    return file


def test_a_data_set_is_converted_exactly_and_read_by_the_reader(tmp_path):
    source, target = write(tmp_path / "source", clients=11), tmp_path / "new" / "target"
    assert convert(source, target) == 11
    assert sorted(path.name for path in target.parent.iterdir()) == ["target"]
    data = OWN["folder"](OwnRequest(str(target)))
    assert data.count() == 11
    for i in (0, 2, 10):
        found = data.load(i, 11)
        for seed, (x, y) in enumerate((found.train, found.test)):
            original = client(10 * i + seed, len(y))
            assert np.array_equal(x, original["x"].astype(np.float32))
            assert np.array_equal(y, original["y"])
    assert len(found.train[1]) == 5
    assert len(found.test[1]) == 2
    assert found.validation is None


@pytest.mark.parametrize(
    ("protocol", "old"),
    [(0, True), (2, True), (2, False), (3, True), (3, False), (4, False), (5, False)],
)
def test_pickles_of_any_protocol_and_of_old_numpy_are_read(tmp_path, protocol, old):
    content = client(0, 3) | {
        "scalar": np.float32(1.5),
        "strings": np.array(["a", "bc"]),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "list": [np.arange(2), (1, "x")],
    }
    found = read_pickled(npz(tmp_path / "0.npz", content, protocol, old))
    assert found["scalar"] == np.float32(1.5)
    for name in ("x", "y", "strings", "fortran"):
        assert np.array_equal(found[name], content[name])
        assert found[name].dtype == content[name].dtype
    assert found["list"][1] == (1, "x")


class Call:
    """Asks to call a function when unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, "system"), (eval, "eval"), (getattr, "getattr"), (np.load, "load")],
)
def test_what_is_not_data_is_refused_by_name_and_not_run(tmp_path, protocol, function, name):
    trace = tmp_path / "trace"
    arguments = {
        "system": (f"touch {trace}",),
        "eval": (f"open({str(trace)!r}, 'w')",),
        "getattr": ("text", "upper"),
        "load": (str(trace),),
    }
    content = client(0, 3) | {"x": Call(function, *arguments[name])}
    file = npz(tmp_path / "0.npz", content, protocol)
    with pytest.raises(DataError) as error:
        read_pickled(file)
    assert error.value.path == str(file)
    assert isinstance(error.value.__cause__, pickle.UnpicklingError)
    assert re.search(rf"\w+\.{name}\b", error.value.value)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Call(os.system, f"touch {trace}")))
    assert trace.exists()  # so the test would have seen it


def test_other_codecs_are_refused(tmp_path):
    content = client(0, 3) | {"x": Call(codecs.encode, "text", "rot13")}
    with pytest.raises(DataError, match="'rot13'"):
        read_pickled(npz(tmp_path / "0.npz", content, 2))


@pytest.mark.parametrize("content", [[1, 2], {"x": 1}, "text", None])
def test_other_contents_are_refused(tmp_path, content):
    file = npz(tmp_path / "0.npz", content, 4)
    with pytest.raises(DataError) as error:
        read_pickled(file)
    assert (error.value.key, error.value.value, error.value.path) == ("data", content, str(file))
    assert error.value.__cause__ is None


def test_files_that_are_not_pfllibs_say_so(tmp_path):
    file = tmp_path / "0.npz"
    np.savez(file, data=np.arange(3))
    with pytest.raises(DataError, match="int64") as error:
        read_pickled(file)
    assert (error.value.key, error.value.path) == ("data", str(file))
    np.savez(file, x_train=np.arange(3))
    with pytest.raises(DataError, match="KeyError.*data.npy"):
        read_pickled(file)
    whole = npz(file, client(0, 3), 4).read_bytes()
    for content in (whole[:200], b"", whole[:150] + bytes(30) + whole[180:]):
        file.write_bytes(content)
        with pytest.raises(DataError) as error:
            read_pickled(file)
        assert (error.value.key, error.value.path) == ("data", str(file))
        assert error.value.__cause__ is not None


@pytest.mark.parametrize(
    ("damage", "key", "value", "client", "path"),
    [
        (lambda s: (s / "test" / "1.npz").unlink(), "train, test", ["1.npz"], None, ""),
        (lambda s: (s / "test").rename(s / "tset"), None, None, None, "test"),
        (
            lambda s: npz(s / "test" / "2.npz", {"x": [[1], [2]], "y": [1]}, 4),
            *("y_test", 1, "2.npz", ""),
        ),
        (
            lambda s: npz(s / "test" / "2.npz", {"x": [[1], [1, 2]], "y": [1]}, 4),
            *("x_test", None, "2.npz", ""),
        ),
    ],
)
def test_a_data_set_is_converted_whole_or_not_at_all(tmp_path, damage, key, value, client, path):
    source = write(tmp_path / "source")
    damage(source)
    with pytest.raises(DataError) as error:
        convert(source, tmp_path / "target")
    assert (error.value.key, error.value.value, error.value.client) == (key, value, client)
    assert error.value.path == str(source / path)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_nothing_is_overwritten(tmp_path):
    source, target = write(tmp_path / "source"), tmp_path / "target"
    target.mkdir()
    assert convert(source, target) == 3  # an empty folder will do
    before = (target / "0.npz").read_bytes()
    (source / "train" / "0.npz").unlink()
    (source / "test" / "0.npz").unlink()
    for taken in (target, target / "0.npz", source):
        with pytest.raises(DataError) as error:
            convert(source, taken)
        assert (error.value.key, error.value.path) == ("target", str(taken))
    assert (target / "0.npz").read_bytes() == before


@pytest.mark.integration
def test_the_command_warns_and_reports(tmp_path, capsys):
    source, target = write(tmp_path / "source"), tmp_path / "target"
    command = [sys.executable, "-m", "pfl_flower.data.readers.pfllib", str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"3 clients in {target}\n")
    assert done.stderr.startswith("warning: this unpickles the files in SOURCE")
    assert len(done.stderr.splitlines()) == 1
    assert len(list(target.iterdir())) == 3
    assert main([str(source), str(target)]) == 1
    assert "error: " in capsys.readouterr().err


@pytest.mark.integration
@pytest.mark.skipif(not REAL.is_dir(), reason="needs this data set in $PFL_DATA_DIR")
def test_a_real_data_set_of_pfllib(tmp_path):
    assert convert(REAL, tmp_path / "target") == 20
    data = OWN["folder"](OwnRequest(str(tmp_path / "target")))
    clients = [data.load(i, 20) for i in range(20)]
    assert sum(len(c.train[1]) for c in clients) == 5993
    assert sum(len(c.test[1]) for c in clients) == 2007
    for i in (0, 13):
        with np.load(REAL / "train" / f"{i}.npz", allow_pickle=True) as archive:
            original = archive["data"].item()  # trusted: this project made it
        assert np.array_equal(clients[i].train[0], original["x"])
        assert np.array_equal(clients[i].train[1], original["y"])
