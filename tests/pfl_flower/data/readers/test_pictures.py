import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from clients.data.dataset_loader import dataset_loader
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import DataError, DataSettings, Federation, number_of_clients, stamp
from pfl_flower.data.lazy_inputs import LazyInputs
from pfl_flower.data.readers.pictures import store
from pfl_flower.data.readers.pictures.decoding import decode, read_header
from pfl_flower.engines import simulate
from tests.errors import refused
from tests.helpers import assert_identical


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pfl-flower" / "pictures"


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def save(file, shade=100, size=(8, 8), mode="RGB", **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    height, width = size
    Image.new(mode, (width, height), (shade,) * 3 if mode == "RGB" else shade).save(file, **options)
    return file


def fill(folder, count=8, start=0, **options):
    for number in range(start, start + count):
        save(folder / f"{number}.png", shade=10 * number, **options)


def settings(folder, **changes):
    return DataSettings(dataset=f"images:{folder}", validation_fraction=0.0, **changes)


def data(folder, clients, **changes):
    return Federation(settings(folder, **changes), clients)


def pixels(part):
    """The inputs of a part as a network gets them, and its targets, in order."""
    inputs, targets = part
    assert isinstance(inputs, LazyInputs)
    made = inputs.dataset_with(targets)
    batches = list(dataset_loader(made, 3, collate=made.collate))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def two_clients(folder):
    """Cats and dogs, where the position of a class differs from client to client."""
    for split, count in (("train", 6), ("test", 4)):
        fill(folder / "ann" / split / "cat", count, start=0)
        fill(folder / "bob" / split / "cat", count, start=0)
        fill(folder / "bob" / split / "ape", count, start=10)
    return folder


def test_classes_are_merged_by_name_whatever_their_position(photos):
    both = data(two_clients(photos), 2)
    assert both.schema.labels == ("ape", "cat")
    assert both.schema.shape == (3, 8, 8)
    assert [both.name(client) for client in (0, 1)] == ["ann", "bob"]
    x, y = pixels(both.client(0).train)
    assert y.tolist() == [1] * 6
    assert sorted(x[:, 0, 0, 0].mul(255).round().tolist()) == [0, 10, 20, 30, 40, 50]
    x, y = pixels(both.client(1).test)
    shades = x[:, 0, 0, 0].mul(255).round()
    assert sorted(zip(y.tolist(), shades.tolist(), strict=True)) == [
        *((0, shade) for shade in (100, 110, 120, 130)),
        *((1, shade) for shade in (0, 10, 20, 30)),
    ]
    assert number_of_clients(settings(photos)) == 2


def test_without_splits_every_class_of_two_or_more_is_in_both(photos):
    for client in range(3):
        fill(photos / str(client) / "many", 18)
        fill(photos / str(client) / "rare", 2)
    found = data(photos, 3)
    for client in range(3):
        own = found.client(client)
        for part in (own.train, own.test):
            assert set(part[1].tolist()) == {0, 1}
        assert len(own.train[1]) + len(own.test[1]) == 20


def test_an_empty_class_folder_is_a_class_without_examples(photos):
    fill(photos / "ann" / "cat")
    (photos / "ann" / "yak").mkdir()
    assert data(photos, 1).schema.labels == ("cat", "yak")


def test_a_class_may_be_called_as_a_split(photos):
    fill(photos / "ann" / "train")
    fill(photos / "ann" / "test")
    assert data(photos, 1).schema.labels == ("test", "train")


def test_a_picture_that_cannot_be_decoded_is_named_left_out_and_counted(photos, caplog):
    fill(photos / "ann" / "cat")
    for name, content in (("broken.jpg", b"no picture"), ("empty.png", b"")):
        (photos / "ann" / "cat" / name).write_bytes(content)
    whole = save(photos / "ann" / "cat" / "cut.png", size=(8, 8)).read_bytes()
    (photos / "ann" / "cat" / "cut.png").write_bytes(whole[:-30])
    save(photos / "ann" / "cat" / "deep.png", mode="I;16")
    for _ in range(2):  # decoded, and from the cache
        found = data(photos, 1)
        assert found.client_schema(0).left_out == 4
        own = found.client(0)
        assert len(own.train[1]) + len(own.test[1]) == 8
        assert pixels(own.train)[0].mean(dim=(1, 2, 3)).mul(255).min() >= 0
    for name in ("broken.jpg", "empty.png", "cut.png", "deep.png"):
        assert name in caplog.text


def test_none_can_be_decoded(photos):
    (photos / "ann" / "cat").mkdir(parents=True)
    (photos / "ann" / "cat" / "x.jpg").write_bytes(b"")
    with refused(DataError, key="pictures", client=0):
        data(photos, 1).client_schema(0)
    shutil.rmtree(photos / "ann")
    fill(photos / "ann" / "train" / "cat", 4)
    (photos / "ann" / "test" / "cat").mkdir(parents=True)
    with refused(DataError, key="test", client=0):
        data(photos, 1).client_schema(0)
    (photos / "ann" / "test" / "cat" / "x.jpg").write_bytes(b"")
    with refused(DataError, key="test", client=0):
        data(photos, 1).client_schema(0)


def test_what_is_no_picture_is_passed_over(photos):
    fill(photos / "ann" / "cat", 4)
    save(photos / "ann" / "cat" / "LOUD.JPG")
    for name in ("notes.txt", ".hidden.png", "Thumbs.db"):
        (photos / "ann" / "cat" / name).write_bytes(b"?")
    fill(photos / "ann" / "cat" / "deeper", 2)
    (photos / ".git").mkdir()
    (photos / "README.md").write_text("?")
    raw = data(photos, 1).clients.load(0)
    assert len(raw.train[1]) + len(raw.test[1]) == 7
    assert raw.left_out == 0


def test_sizes_differ(photos):
    fill(photos / "ann" / "cat", 4)
    fill(photos / "ann" / "dog", 4, size=(6, 10))
    with refused(DataError, key="image-size", value=[(6, 10), (8, 8)], client=0):
        data(photos, 1).client_schema(0)
    found = data(photos, 1, image_size=5)
    assert found.schema.shape == (3, 5, 5)
    assert pixels(found.client(0).train)[0].shape[1:] == (3, 5, 5)


def test_grey_and_colour(photos):
    fill(photos / "ann" / "cat", mode="L")
    fill(photos / "bob" / "cat", 7, mode="L")
    save(photos / "bob" / "cat" / "colour.png")
    shapes = [data(photos, 2).client_schema(client).shape for client in (0, 1)]
    assert shapes == [(1, 8, 8), (3, 8, 8)]
    for channels in (1, 3):
        assert data(photos, 2, image_channels=channels).schema.shape == (channels, 8, 8)


def test_a_picture_is_turned_and_not_distorted(tmp_path):
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, :2], wide[:, 6:] = 50, 200  # what a square of the middle leaves out
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(wide).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(wide).save(tmp_path / "b.png")
    assert read_header(tmp_path / "a.png").size == (8, 4)
    assert decode(tmp_path / "a.png", 3, (8, 4)).shape == (3, 8, 4)
    assert decode(tmp_path / "a.png", 3, (8, 4))[0, 0].tolist() == [50] * 4
    assert decode(tmp_path / "b.png", 1, (4, 4)).max() == 0


def table(folder, rows, name="index.csv", columns="path,label,client,split"):
    (folder / name).write_text("\n".join([columns, *(",".join(row) for row in rows)]) + "\n")
    return folder / name


def rows(folder, clients=("ann", "bob"), count=6):
    for number in range(count):
        save(folder / "all" / f"{number}.png", shade=10 * number)
    splits = ["train"] * (count - 2) + ["valid", "TEST"]
    return [
        (f"all/{n}.png", "cat" if n % 2 else "dog", client, splits[n])
        for client in clients
        for n in range(count)
    ]


def test_a_table_of_paths(photos):
    found = data(table(photos, rows(photos, ("w10", "w2"))), 2)
    assert [found.name(client) for client in (0, 1)] == ["w2", "w10"]
    raw = found.clients.load(0)
    assert [len(part[1]) for part in (raw.train, raw.validation, raw.test)] == [4, 1, 1]
    x, y = pixels(found.client(0).test)
    assert (y.tolist(), round(float(x[0, 0, 0, 0]) * 255)) == ([0], 50)


def test_a_table_of_other_columns_and_no_splits(photos):
    own = [row[:3] for row in rows(photos)] + [("all/lost.png", "cat", "ann")]
    file = table(photos, own, columns="file,what,who")
    found = data(file, 2, path_column="file", label_column="what", client_column="who")
    assert found.schema.labels == ("cat", "dog")
    assert found.client_schema(0).left_out == 1  # it is not there
    with refused(DataError, key="path-column", value="path", choices=("file", "what", "who")):
        data(file, 2).client_schema(0)
    with refused(DataError, key="split-column", choices=("file",)):
        names = {"path_column": "file", "label_column": "what", "client_column": "who"}
        data(file, 2, **names, split_column="fold").client_schema(0)


def test_a_table_with_odd_values(photos):
    good = rows(photos)
    with refused(DataError, key="split-column", value=["holdout"], choices=("train", "test")):
        data(table(photos, [*good, ("all/0.png", "cat", "ann", "holdout")]), 2).client_schema(0)
    with refused(DataError, key="label", value=1):
        data(table(photos, [*good, ("all/0.png", "", "ann", "train")]), 2).client_schema(0)


def test_numbers_are_names_unless_they_are_to_be_predicted(photos):
    own = [(path, str(n % 3), who, s) for n, (path, _, who, s) in enumerate(rows(photos))]
    file = table(photos, own)
    assert data(file, 2).schema.labels == ("0", "1", "2")
    found = data(file, 2, task="regression")
    assert found.schema.task == "regression"
    with refused(DataError, key="task"):
        data(table(photos, rows(photos)), 2, task="regression").client_schema(0)


@pytest.mark.parametrize("layout", ["cat", "train/cat"])
def test_a_folder_of_classes_has_no_clients_unless_it_is_one_devices(photos, layout):
    fill(photos / layout)
    fill(photos / layout.replace("cat", "dog"))
    with refused(DataError, key="dataset", path=str(photos)):
        data(photos, 1).client_schema(0)
    own = data(photos, 1, whole="ward-7")
    assert own.name(0) == "ward-7"
    assert own.client_schema(0).labels == ("cat", "dog")


def test_folders_that_are_none(photos, tmp_path):
    with refused(DataError, key="dataset"):
        data(photos, 1).client_schema(0)
    with refused(DataError, key="dataset", value="nowhere"):
        data("nowhere", 1)
    fill(photos / "ann" / "cat")
    save(photos / "ann" / "lone.png")
    with refused(DataError, key="label", value=["lone.png"], client=0):
        data(photos, 1).client_schema(0)
    with refused(DataError, key="partition-id", client=2, choices=()):
        fill(photos / "bob" / "cat")
        data(photos, 3).client_schema(2)


def test_what_stands_beside_splits_is_refused_and_no_test_picture_trains(photos):
    fill(photos / "ann" / "train" / "cat")
    fill(photos / "ann" / "test" / "cat")
    fill(photos / "ann" / "unlabelled")
    with refused(DataError, key="split", value=["unlabelled"], client=0):
        data(photos, 1).client_schema(0)
    (photos / "ann" / "unlabelled").rename(photos / "ann" / "Training")
    with refused(DataError, key="split", client=0):
        data(photos, 1).client_schema(0)


def test_a_picture_among_the_classes_of_a_split_is_refused(photos):
    fill(photos / "ann" / "train" / "cat")
    fill(photos / "ann" / "test" / "cat")
    save(photos / "ann" / "train" / "lone.png")
    with refused(DataError, key="label", value=["lone.png"], client=0):
        data(photos, 1).client_schema(0)


def test_splits_without_one_to_train_on_are_refused(photos):
    fill(photos / "ann" / "test" / "cat")
    with refused(DataError, key="split", value=["test"], client=0):
        data(photos, 1).client_schema(0)


def test_a_client_reads_its_own_files_and_only_what_a_batch_needs(photos, monkeypatch):
    opened = []
    real = store.decode
    monkeypatch.setattr(
        store, "decode", lambda file, *a: opened.append(file.parts[-4]) or real(file, *a)
    )
    found = data(two_clients(photos), 2)
    found.client_schema(0)
    assert set(opened) == {"ann"}
    assert len(opened) == 10  # each once, to know which can be decoded
    schema = found.schema
    opened.clear()
    pixels(data(photos, 2, image_channels=3).client(0, schema).train)
    assert len(opened) == 10
    opened.clear()
    pixels(data(photos, 2).client(0, schema).train)  # another process: from the cache
    assert opened == []


def test_without_room_pictures_are_decoded_batch_by_batch(photos, cache, monkeypatch):
    expected = pixels(data(two_clients(photos), 2).client(1).train)
    usage = shutil._ntuple_diskusage(1000, 900, 100)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda folder: usage)
    shutil.rmtree(cache)
    found = pixels(data(photos, 2).client(1).train)
    assert [torch.equal(a, b) for a, b in zip(found, expected, strict=True)] == [True, True]
    assert not list(cache.glob("*.npy"))


def test_the_cache_belongs_to_the_files_as_they_are(photos, cache):
    fill(photos / "ann" / "cat", 4)
    before = stamp(settings(photos))
    own = data(photos, 1).client(0)
    assert [oct(file.stat().st_mode & 0o777) for file in cache.iterdir()] == ["0o600"] * 2
    assert pixels(own.train)[0].max() < 0.5
    save(photos / "ann" / "cat" / "0.png", shade=200)
    os.utime(photos / "ann" / "cat" / "0.png", ns=(1, 1))
    assert stamp(settings(photos)) != before
    whole = data(photos, 1).client(0)
    assert max(float(pixels(part)[0].max()) for part in (whole.train, whole.test)) > 0.7
    for file in cache.glob("*.npy"):
        file.unlink()
    assert len(pixels(data(photos, 1).client(0).train)[1]) == len(whole.train[1])
    assert list(cache.glob("*.npy"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("noise", "0.1"),
        ("calibrate-inputs", True),
        ("imputation", "mean"),
        ("corrupted-clients", 1),
    ],
)
def test_what_changes_measurements_does_not_apply(photos, key, value):
    changes = {key.replace("-", "_"): value}
    with refused(DataError, key=key):
        data(two_clients(photos), 2, **changes).client_schema(0)


def test_heterogeneity_of_labels_applies_and_that_of_inputs_does_not(photos):
    two_clients(photos)
    plain, swapped = (data(photos, 2, heterogeneity=h).client(0) for h in ("none", "swap"))
    assert plain.train[1].tolist() == [1] * 6
    assert swapped.train[1].tolist() == [0] * 6
    with refused(DataError, key="heterogeneity", value="lighting", choices=("none",)):
        data(photos, 2, heterogeneity="lighting").client(0)


@pytest.mark.parametrize(
    ("key", "value"),
    [("image-size", 8), ("image-channels", 1), ("path-column", "x"), ("num-workers", 1)],
)
def test_keys_of_pictures_need_pictures(key, value):
    with refused(ConfigError, key=key):
        RunConfig.parse({"dataset": "digits", key: value})
    RunConfig.parse({"dataset": "images:somewhere", key: value})


def test_augmentation_needs_pictures_and_known_names():
    with refused(ConfigError, key="augmentation"):
        RunConfig.parse({"dataset": "diabetes", "augmentation": "flip"})
    with refused(ConfigError, key="augmentation", choices=("flip", "crop")):
        RunConfig.parse({"augmentation": "mirror"})
    with refused(ConfigError, key="image-channels"):
        RunConfig.parse({"dataset": "images:x", "image-channels": 2})


def test_a_personal_file_names_how_pictures_were_made_only_where_something_was_set():
    plain = DataSettings()
    keys = ("image-size", "image-channels", "path-column", "split-column", "stratify")
    assert not any(f"{key}=" in plain.describe() for key in keys)
    assert "image-size=32" in DataSettings(image_size=32).describe()


def run(photos, engine="in-process", **changes):
    config = {"dataset": f"images:{photos}", "baselines": "", "num-server-rounds": 2}
    return simulate({**config, **{k.replace("_", "-"): v for k, v in changes.items()}}, 2, engine)


def test_a_run_on_pictures_learns_them(photos):
    two_clients(photos)
    (found,) = run(photos, num_server_rounds=5, learning_rate=0.05, augmentation="flip,crop")
    assert found.config.known_schema.labels == ("ape", "cat")
    assert min(found.by_client().values()) >= 0.5


def test_augmentation_changes_training_and_is_drawn_again_alike(photos):
    two_clients(photos)
    first, second = (run(photos, augmentation="crop") for _ in range(2))
    assert_identical(first, second)
    plain = run(photos)
    losses = [[r.metrics.get("train-loss") for r in runs[0].reports] for runs in (first, plain)]
    assert losses[0] != losses[1]


@pytest.mark.integration
def test_numbers_are_the_same_on_ray_and_with_workers(photos):
    two_clients(photos)
    options = {"augmentation": "flip,crop", "method": "fedbn", "norm": "batch"}
    here = run(photos, **options)
    assert_identical(here, run(photos, "ray", **options))
    workers = run(photos, **options, num_workers=2)
    assert [r.metrics for r in workers[0].reports] == [r.metrics for r in here[0].reports]
