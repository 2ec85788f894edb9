import os
import signal
import stat
import time
from pathlib import Path

import pytest
import torch
from flwr.app import RecordDict

from clients import (
    CorruptStateError,
    ForeignStateError,
    PersonalState,
    PersonalStateError,
    Snapshot,
)
from clients.state.personal_state import tensor_spec
from clients.state.state_file import fingerprint, keep_previous, previous_of
from strategies.errors import ArgumentError

HEAD = {"head.weight": torch.arange(6.0).reshape(2, 3), "head.count": torch.tensor(3)}
SPEC = {f"personal/{name}": spec for name, spec in tensor_spec(HEAD).items()}
SPEC["shared/body.weight"] = ((4, 4), "float32")


def snapshot(server_round=4, scale=1):
    return Snapshot(server_round, {f"personal/{n}": t * scale for n, t in HEAD.items()})


def stored(tmp_path, **options):
    return PersonalState(RecordDict(), "fedper", "client-3", tmp_path, **options)


def same(found, expected):
    assert found.round == expected.round
    assert found.arrays.keys() == expected.arrays.keys()
    for name, tensor in expected.arrays.items():
        assert torch.equal(found.arrays[name], tensor)
        assert found.arrays[name].dtype == tensor.dtype


def test_nothing_was_kept(tmp_path):
    assert stored(tmp_path).load(SPEC) is None
    assert PersonalState().load(SPEC) is None


def test_survives_rounds_in_the_context_and_restarts_on_disk(tmp_path):
    records = RecordDict()
    PersonalState(records, "fedper").save(snapshot(), SPEC)
    same(PersonalState(records, "fedper").load(SPEC), snapshot())
    assert PersonalState(records, "fedrep").load(SPEC) is None
    stored(tmp_path).save(snapshot(7), SPEC)
    same(stored(tmp_path).load(SPEC), snapshot(7))


def test_what_is_loaded_is_a_copy():
    records = RecordDict()
    state = PersonalState(records)
    state.save(snapshot(), SPEC)
    state.load(SPEC).arrays["personal/head.weight"].zero_()
    same(state.load(SPEC), snapshot())


def test_the_file_is_private_and_alone(tmp_path):
    directory = tmp_path / "new"
    stored(directory).save(snapshot(), SPEC)
    (file,) = directory.iterdir()
    assert file.name == "client-3.safetensors"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def refused(tmp_path, error, state=None, spec=SPEC):
    """Neither read nor overwritten; the error names the file, in its message as well."""
    path = tmp_path / "client-3.safetensors"
    content = path.read_bytes()
    state = state or stored(tmp_path)
    for act in (lambda: state.load(spec), lambda: state.save(snapshot(9), spec)):
        with pytest.raises(error) as raised:
            act()
        assert type(raised.value) is error
        assert raised.value.path == path
        assert str(raised.value).endswith(f": {path}")
    assert path.read_bytes() == content
    return raised.value


def test_a_truncated_file(tmp_path):
    stored(tmp_path).save(snapshot(), SPEC)
    path = tmp_path / "client-3.safetensors"
    content = path.read_bytes()
    for length in (0, 5, 50, len(content) - 1):
        path.write_bytes(content[:length])
        refused(tmp_path, CorruptStateError)


def test_every_flipped_byte_is_found(tmp_path):
    stored(tmp_path).save(snapshot(), SPEC)
    path = tmp_path / "client-3.safetensors"
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(PersonalStateError):
            stored(tmp_path).load(SPEC)
    path.write_bytes(content)
    same(stored(tmp_path).load(SPEC), snapshot())


def test_the_file_of_another_model(tmp_path):
    stored(tmp_path).save(snapshot(), SPEC)
    wider = dict(SPEC) | {"personal/head.weight": ((5, 3), "float32")}
    error = refused(tmp_path, ForeignStateError, spec=wider)
    assert (error.key, error.expected) == ("fingerprint", fingerprint(wider))
    assert error.value == fingerprint(SPEC)
    for words in ("personal/head.weight", "(2, 3)", "(5, 3)"):
        assert words in str(error)
    other_body = dict(SPEC) | {"shared/body.weight": ((9, 9), "float32")}
    error = refused(tmp_path, ForeignStateError, spec=other_body)
    assert (error.key, error.expected) == ("fingerprint", fingerprint(other_body))


def test_the_file_made_on_other_data(tmp_path):
    stored(tmp_path, purpose="digits seed=0").save(snapshot(), SPEC)
    other = stored(tmp_path, purpose="digits seed=7")
    error = refused(tmp_path, ForeignStateError, other)
    assert (error.key, error.value) == ("purpose", "digits seed=0")
    assert error.expected == "digits seed=7"


def test_a_refusal_names_every_file_that_is_to_be_moved_away(tmp_path):
    """Without the first one the second would be found, and not be what was asked for either."""
    for number in (1, 2):
        stored(tmp_path, run="a").save(snapshot(number), SPEC)
    with pytest.raises(ForeignStateError) as refusal:
        PersonalState(RecordDict(), "fedbn", "client-3", tmp_path).load(SPEC)
    files = [tmp_path / "client-3.safetensors", tmp_path / "client-3.safetensors.previous"]
    assert str(refusal.value).endswith(f": {files[0]} and {files[1]}")


@pytest.mark.parametrize(("run", "level"), [("a", "INFO"), ("b", "WARNING")])
def test_who_goes_on_from_a_file_says_from_which(tmp_path, caplog, run, level):
    for number in (1, 2):
        stored(tmp_path, run="a").save(snapshot(number), SPEC)
    (tmp_path / "client-3.safetensors").unlink()
    with caplog.at_level("INFO", "flwr"):
        same(stored(tmp_path, run=run).load(SPEC), snapshot(1))
    (record,) = caplog.records
    assert record.levelname == level
    said = f"client-3 continues with its personal parameters of round 1 from {tmp_path}"
    assert record.getMessage().startswith(f"{said}/client-3.safetensors.previous")
    assert ("start the server from those" in record.getMessage()) == (run == "b")


def test_the_file_of_another_method(tmp_path):
    stored(tmp_path).save(snapshot(), SPEC)
    other = PersonalState(RecordDict(), "fedbn", "client-3", tmp_path)
    error = refused(tmp_path, ForeignStateError, other)
    assert (error.key, error.value, error.expected) == ("method", "fedper", "fedbn")


def test_somebody_elses_safetensors_file(tmp_path):
    from safetensors.torch import save_file

    save_file(HEAD, tmp_path / "client-3.safetensors")
    assert refused(tmp_path, ForeignStateError).key == "format"


def test_a_disk_that_refuses_leaves_the_old_state(tmp_path, monkeypatch):
    state = stored(tmp_path)
    state.save(snapshot(4), SPEC)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PersonalStateError) as raised:
        state.save(snapshot(5), SPEC)
    assert raised.value.path == tmp_path / "client-3.safetensors"
    assert raised.value.__cause__.errno == 28
    monkeypatch.undo()
    same(state.load(SPEC), snapshot(4))
    same(stored(tmp_path).load(SPEC), snapshot(4))
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path):
    (tmp_path / "client-3.safetensors").mkdir()
    with pytest.raises(PersonalStateError) as error:
        stored(tmp_path).load(SPEC)
    assert not isinstance(error.value, CorruptStateError)
    assert error.value.path == tmp_path / "client-3.safetensors"


def test_a_file_system_that_cannot_sync_directories_is_fine(tmp_path, monkeypatch):
    sync = os.fsync

    def files_only(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    stored(tmp_path).save(snapshot(), SPEC)
    same(stored(tmp_path).load(SPEC), snapshot())


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "x.", "x" * 101, "x.model"])
def test_names_that_are_no_file_names(name, tmp_path):
    with pytest.raises(ArgumentError) as raised:
        PersonalState(client=name, directory=tmp_path)
    assert (raised.value.argument, raised.value.value) == ("name", name)


def write_forever(directory, spec, big):
    """Save state after state; never returns."""
    state = PersonalState(method="fedper", client="client-3", directory=directory)
    kept = state.load(spec)
    number = kept.round if kept else 0
    while True:
        number += 1
        state.save(Snapshot(number, {"personal/big": big + number}), spec)


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_killed_writer_always_leaves_the_old_or_the_new_state_whole(tmp_path):
    big = torch.zeros(200_000)
    spec = tensor_spec({"big": big})
    last, kills, progress, pause = 0, 150, 0, 0.02
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            try:
                write_forever(tmp_path, spec, big)
            finally:
                os._exit(1)
        time.sleep(pause)
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        found = PersonalState(method="fedper", client="client-3", directory=tmp_path).load(spec)
        if found is None:
            assert last == 0
            pause *= 1.05  # a busy machine needs longer to write anything
            continue
        assert found.round >= last  # the next one goes on from where this one was killed
        assert (found.arrays["personal/big"] == found.round).all()
        progress += found.round > last
        pause *= 1.0 if found.round > last else 1.05
        last = found.round
    leftovers = list(tmp_path.glob(".*"))
    print(
        f"\n{kills} kills, {last} states written, {len(leftovers)} kills in the middle of a write"
    )
    assert progress > kills / 10  # a slow disk writes less between kills
    assert leftovers  # so some kills did hit a write
    for leftover in leftovers:  # what killed writers left behind goes once it is old
        os.utime(leftover, (0, 0))
    state = PersonalState(method="fedper", client="client-3", directory=tmp_path)
    state.save(Snapshot(last + 1, {"personal/big": big}), spec)
    assert [path.name for path in tmp_path.iterdir()] == ["client-3.safetensors"]


def of_run(directory, run, **options):
    return PersonalState(
        RecordDict(), "fedper", "client-3", directory, "digits", run=run, **options
    )


def test_a_round_played_again_starts_from_the_state_before_it(tmp_path):
    for number in (1, 2, 3):
        of_run(tmp_path, "a").save(snapshot(number), SPEC)
    same(of_run(tmp_path, "a").load(SPEC), snapshot(3))
    same(of_run(tmp_path, "a").load(SPEC, before=4), snapshot(3))
    same(of_run(tmp_path, "a").load(SPEC, before=3), snapshot(2))
    of_run(tmp_path, "a").save(snapshot(3), SPEC)  # again, as after a kill
    same(of_run(tmp_path, "a").load(SPEC, before=3), snapshot(2))
    assert len(list(tmp_path.iterdir())) == 2


def test_the_first_round_played_again_starts_from_what_an_earlier_run_left(tmp_path):
    of_run(tmp_path, "a").save(snapshot(9), SPEC)
    of_run(tmp_path, "b").save(snapshot(1), SPEC)
    same(of_run(tmp_path, "b").load(SPEC, before=1), snapshot(9))


def test_another_run_goes_on_from_the_last_state_whatever_its_round(tmp_path):
    of_run(tmp_path, "a").save(snapshot(8), SPEC)
    of_run(tmp_path, "a").save(snapshot(9), SPEC)
    same(of_run(tmp_path, "b").load(SPEC, before=1), snapshot(9))


def test_a_killed_writer_leaves_a_state_to_play_its_round_again(tmp_path, monkeypatch):
    of_run(tmp_path, "a").save(snapshot(1), SPEC)
    of_run(tmp_path, "a").save(snapshot(2), SPEC)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("clients.state.personal_state.write_file", killed)
    with pytest.raises(KeyboardInterrupt):  # the previous state is in place, the new one is not
        of_run(tmp_path, "a").save(snapshot(3), SPEC)
    monkeypatch.undo()
    same(of_run(tmp_path, "a").load(SPEC, before=3), snapshot(2))


def test_without_hard_links_the_previous_state_is_copied(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    of_run(tmp_path, "a").save(snapshot(1), SPEC)
    of_run(tmp_path, "a").save(snapshot(2), SPEC)
    same(of_run(tmp_path, "a").load(SPEC, before=2), snapshot(1))


def test_without_hard_links_the_state_before_is_copied_and_its_owners_alone(tmp_path, monkeypatch):
    def none(*_):
        raise OSError("no hard links here")

    monkeypatch.setattr("clients.state.state_file.os.link", none)
    path = tmp_path / "ward.safetensors"
    path.write_bytes(b"state")
    modes = []
    replace = os.replace

    def watched(source, target):
        modes.append(Path(source).stat().st_mode & 0o777)
        replace(source, target)

    monkeypatch.setattr("clients.state.state_file.os.replace", watched)
    before = os.umask(0)
    try:
        keep_previous(path)
    finally:
        os.umask(before)
    assert previous_of(path).read_bytes() == path.read_bytes() == b"state"
    assert modes == [0o600]
