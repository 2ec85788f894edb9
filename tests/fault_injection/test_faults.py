"""Faults: what is drawn, when they hit, and what counts as lost."""

import argparse
import asyncio
import json
import os
from contextlib import contextmanager
from dataclasses import replace
from threading import Event, Thread
from time import sleep

import numpy as np
import pytest
import torch
from flwr.app import RecordDict
from rich.console import Console

from clients.state import state_file as personal_file
from clients.state.personal_state import PersonalState, PersonalStateError, Snapshot, tensor_spec
from tests.fault_injection import command as faults
from tests.fault_injection import hooks as fault_hooks
from tests.fault_injection.federation import trained
from tests.fault_injection.hooks import Device
from tests.fault_injection.journal import Entry, Kept, append, digest_of, losses, read
from tests.fault_injection.kinds import FAULTS
from tests.fault_injection.loopback import LoopbackError
from tests.fault_injection.moments import MOMENTS
from tests.fault_injection.slow_network import SlowNetwork
from tests.fault_injection.teardown import FaultError
from tests.fault_injection.verdict import Tally, Verdict, absences, new_losses

# ------------------------------------------------------------------ journals


def kept(number, digest, run="a"):
    """The lines of a state that was kept."""
    about = {"round": number, "what": "train", "run": run, "digest": digest}
    return [Entry("keeping", **about), Entry("kept", **about)]


def loaded(number, digest, run="a", before=0, wanted_by="a"):
    return Entry("loaded", number, "train", run, digest, before, wanted_by)


NOTHING = Entry("loaded", 0, "train", before=1, wanted_by="a")


def test_a_state_that_is_found_again_is_not_lost():
    entries = [NOTHING, *kept(1, "x"), loaded(1, "x", before=2), *kept(2, "y")]
    assert losses(entries, Kept("a", 2, "y")) == []


@pytest.mark.parametrize(
    "found",
    [NOTHING, loaded(1, "z", before=2), loaded(1, "x", run="b", before=2)],
    ids=["nothing", "other values", "another run's"],
)
def test_a_state_that_is_not_found_again_is_lost(found):
    (words,) = losses([*kept(1, "x"), replace(found, before=2)], Kept("a", 1, "x"))
    assert "the state x of round 1 of run a" in words


@pytest.mark.parametrize("on_disk", [None, Kept("a", 1, "x"), Kept("a", 2, "z")])
def test_what_is_on_the_disk_at_the_end_counts(on_disk):
    assert losses([*kept(1, "x"), *kept(2, "y")], on_disk)


def test_a_state_whose_writing_was_killed_may_be_there_or_not():
    killed = [*kept(1, "x"), kept(2, "y")[0]]
    assert losses(killed, Kept("a", 1, "x")) == []
    assert losses(killed, Kept("a", 2, "y")) == []
    assert losses(killed, None)
    # What was found once must be found from then on.
    assert losses([*killed, loaded(2, "y")], Kept("a", 1, "x"))
    assert losses([*killed, loaded(1, "x")], Kept("a", 2, "y"))


def test_a_state_that_was_refused_may_not_be_there():
    refused = [*kept(1, "x"), kept(2, "y")[0], replace(kept(2, "y")[0], event="refused")]
    assert losses(refused, Kept("a", 1, "x")) == []
    assert losses(refused, Kept("a", 2, "y"))


def test_a_round_that_is_played_again_starts_from_the_state_before_it():
    twice = [*kept(1, "x"), *kept(2, "y"), loaded(1, "x", before=2), *kept(2, "z")]
    assert losses(twice, Kept("a", 2, "z")) == []
    assert losses([*twice, loaded(2, "y", before=3)], Kept("a", 2, "z"))
    # Another run's rounds say nothing about this one's.
    assert losses([*kept(2, "x", run="b"), loaded(2, "x", "b", before=1)], Kept("b", 2, "x")) == []


def test_a_journal_is_read_as_far_as_it_is_whole(tmp_path):
    path = tmp_path / "journal.jsonl"
    assert read(path) == []
    append(path, NOTHING)
    append(path, loaded(1, "x"))
    with path.open("a") as stream:
        stream.write('{"event": "kep')
    assert read(path) == [NOTHING, loaded(1, "x")]


def test_a_digest_is_of_names_shapes_dtypes_and_values():
    base = {"a": np.zeros((2, 3), np.float32)}
    others = [
        {"b": base["a"]},
        {"a": base["a"].T},
        {"a": base["a"].astype(np.int32)},
        {"a": base["a"] + 1},
        {"a": base["a"], "b": np.zeros(1)},
    ]
    assert digest_of({"a": torch.zeros(2, 3)}) == digest_of(base)
    assert len({digest_of(arrays) for arrays in [base, *others]}) == 6


# ------------------------------------------------------------------ the device


class StruckError(BaseException):
    """In place of a kill: the process writes no further."""


def strike():
    raise StruckError


def state_in(folder):
    return PersonalState(RecordDict(), "fedper", "client-0", folder, run="a")


def snapshot(number):
    return Snapshot(number, {"personal/weight": torch.full((3,), float(number))})


SPEC = tensor_spec(snapshot(1).arrays)


@pytest.fixture
def whole_system(monkeypatch):
    monkeypatch.setattr(personal_file, "os", os)


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("before writing", 2),
        ("half written", 2),
        ("before the rename", 2),
        ("after the rename", 3),
        ("after the second name", 2),
    ],
)
@pytest.mark.usefixtures("whole_system")
def test_a_state_is_the_old_one_or_the_new_one_wherever_the_writing_stops(tmp_path, moment, number):
    for each in (1, 2):
        state_in(tmp_path).save(snapshot(each), SPEC)
    MOMENTS[moment](strike)
    with pytest.raises(StruckError):
        state_in(tmp_path).save(snapshot(3), SPEC)
    found = state_in(tmp_path).load(SPEC)
    assert found.round == number
    assert torch.equal(found.arrays["personal/weight"], torch.full((3,), float(number)))
    # The round is played again from the state before it, wherever it was broken off.
    assert state_in(tmp_path).load(SPEC, before=3).round == 2


@pytest.mark.usefixtures("whole_system")
def test_half_of_a_state_was_written_when_the_writing_stopped(tmp_path):
    state_in(tmp_path).save(snapshot(1), SPEC)
    whole = (tmp_path / "client-0.safetensors").stat().st_size
    MOMENTS["half written"](strike)
    with pytest.raises(StruckError):
        state_in(tmp_path).save(snapshot(2), SPEC)
    (left,) = tmp_path.glob(".client-0.safetensors.*")
    assert left.stat().st_size == whole // 2


@pytest.mark.parametrize("moment", ["before writing", "half written"])
@pytest.mark.usefixtures("whole_system")
def test_a_disk_that_is_full_leaves_the_old_state(tmp_path, moment):
    device = Device(tmp_path, 0, tmp_path)
    state_in(tmp_path).save(snapshot(1), SPEC)
    MOMENTS[moment](lambda: fault_hooks.ACTS["refuse"](device))
    with pytest.raises(PersonalStateError, match="No space left on device"):
        state_in(tmp_path).save(snapshot(2), SPEC)
    assert state_in(tmp_path).load(SPEC).round == 1


def test_an_order_is_carried_out_once_and_in_its_message_only(tmp_path, monkeypatch):
    struck = []
    monkeypatch.setattr(fault_hooks, "ACTS", {"kill": struck.append})
    armed = {}
    monkeypatch.setattr(fault_hooks, "MOMENTS", {"now": lambda strike: armed.update(now=strike)})
    device = Device(tmp_path, 1, tmp_path)
    order = {"message": "train", "round": 2, "moment": "now", "act": "kill"}
    device.order.write_text(json.dumps(order))
    for number, kind in ((1, "train"), (2, "evaluate")):
        fault_hooks._arm(device, number, kind)
        assert not armed
    fault_hooks._arm(device, 2, "train")
    armed["now"]()
    armed["now"]()
    assert struck == [device]
    assert read(device.journal) == [Entry("hit", 2, "now")]


# ------------------------------------------------------------------ the command


def test_kinds_are_named():
    assert faults.parser().parse_args(["--kinds", "hanging, joining"]).kinds == [
        "hanging",
        "joining",
    ]
    assert faults.parser().parse_args([]).kinds == [*FAULTS]
    for text in ("hangin", ","):
        with pytest.raises(argparse.ArgumentTypeError, match="hanging"):
            faults._kinds(text)
    with pytest.raises(SystemExit):
        faults.parser().parse_args(["--n", "0"])


def test_what_breaks_depends_on_the_seed_alone():
    drawn = [faults.draw(0, number, [*FAULTS]) for number in range(200)]
    assert drawn == [faults.draw(0, number, [*FAULTS]) for number in range(200)]
    assert drawn != [faults.draw(1, number, [*FAULTS]) for number in range(200)]
    assert {verdict.kind for verdict in drawn} == set(FAULTS)
    assert {(verdict.victim, verdict.round) for verdict in drawn} == {
        (node, number) for node in range(3) for number in (1, 2)
    }


def test_a_victim_may_miss_rounds_but_not_the_last_one():
    assert absences({0: [1, 2, 3], 1: [3], 2: [1, 2, 3]}, victim=1, rounds=3, misses=True) == []
    assert absences({0: [1, 2, 3], 1: [1, 2]}, victim=1, rounds=3, misses=True) == [
        "node 1 did not train in rounds [3]"
    ]
    assert absences({0: [1, 3], 1: [3]}, victim=1, rounds=3, misses=True) == [
        "node 0 did not train in rounds [2]"
    ]
    assert absences({0: [1, 2, 3], 1: [1, 3]}, victim=1, rounds=3, misses=False)


def test_training_counts_where_its_reply_was_used():
    rows = [
        {"round": "1", "client": "0", "train_num_examples": "9"},
        {"round": "2", "client": "0", "train_num_examples": ""},
        {"round": "3", "client": "1", "train_num_examples": "9"},
    ]
    assert trained(rows, 0) == [1]


def verdict(**changes):
    return replace(Verdict(0, "hanging", 0, 1, hit="seen", completed=True), **changes)


@pytest.mark.parametrize(
    "bad", [{"lost": ["x"]}, {"torn": ["x"]}, {"odd": ["x"]}, {"completed": False}]
)
def test_one_bad_run_spoils_the_tally(bad):
    assert Tally([verdict(), verdict()]).good
    assert not Tally([verdict(), verdict(**bad)]).good


def test_a_tally_counts_what_has_hit():
    found = Tally(
        [verdict(), verdict(kind="joining"), verdict(hit=""), verdict(lost=["x", "y"])]
    ).to_json()
    assert found["injected"] == 3
    assert found["injected_by_kind"] == {"hanging": 2, "joining": 1}
    assert (found["missed"], found["completed"], found["lost"], found["torn"]) == (1, 3, 2, 0)


def test_a_loss_is_reported_once():
    verdicts = [verdict(lost=["x"]), verdict(lost=["x", "y"])]
    new_losses(verdicts)
    assert [each.lost for each in verdicts] == [["x"], ["y"]]


def test_a_tally_is_printed_with_its_sums():
    console = Console(width=120, record=True)
    faults.print_tally(Tally([verdict(), verdict(kind="joining", torn=["x"])]), console)
    said = console.export_text()
    assert "hanging" in said
    assert "joining" in said
    assert "killed" not in said
    assert "Faults injected: 2 (and 0 that did not hit); runs completed: 2" in said
    assert "lost: 0; torn: 1" in said


class Here:
    """In place of a federation; what breaks in it is made up."""


@pytest.mark.parametrize("workers", [1, 3])
def test_every_run_is_played_once_until_enough_have_hit(tmp_path, monkeypatch, workers):
    taken_down = []

    def made_up(folder, up):
        up.callback(taken_down.append, folder)
        return Here()

    def misses_every_third(here, verdict):
        played.append(verdict.number)
        verdict.hit, verdict.completed = "" if verdict.number % 3 == 0 else "yes", True
        verdict.trained = {0: [1, 2]}

    played = []

    monkeypatch.setattr(faults, "federation", made_up)
    monkeypatch.setattr(faults, "break_once", misses_every_third)
    options = faults.parser().parse_args(["--n", "6", "--seed", "3"])
    reported = []
    series = faults.Series(options, tmp_path, lambda line, hit: reported.append(hit))
    series.play([tmp_path / str(worker) for worker in range(workers)])
    numbers = sorted(series.verdicts)
    assert numbers == list(range(len(numbers)))
    assert len(series.tally.injected) == reported.count(True) == 6
    assert [series.verdicts[n].kind for n in numbers] == [
        faults.draw(3, n, options.kinds).kind for n in numbers
    ]
    assert 1 <= len(taken_down) <= workers  # who finds nothing to do sets nothing up
    assert json.loads((tmp_path / "faults.json").read_text())["injected"] == 6
    # A command that was stopped goes on; one that draws something else does not write over it.
    options.n = 8
    more = faults.Series(options, tmp_path, lambda line, hit: None)
    assert more.verdicts == series.verdicts
    more.play([tmp_path])
    assert len(more.tally.injected) == 8
    assert sorted(played) == sorted(more.verdicts)
    for other in (["--seed", "4"], ["--seed", "3", "--kinds", "joining"]):
        with pytest.raises(FaultError, match="'seed': 3.*another --out"):
            faults.Series(faults.parser().parse_args(other), tmp_path, lambda line, hit: None)


def test_faults_that_do_not_hit_come_to_an_end_and_a_loss_is_reported_by_its_first_run(
    tmp_path, monkeypatch
):
    def misses(here, verdict):
        verdict.lost = ["a"]

    monkeypatch.setattr(faults, "federation", lambda folder, up: Here())
    monkeypatch.setattr(faults, "break_once", misses)
    options = faults.parser().parse_args(["--n", "3"])
    series = faults.Series(options, tmp_path, lambda line, hit: None)
    series.play([tmp_path])
    assert [len(verdict.lost) for verdict in series.tally.verdicts] == [1, 0, 0, 0, 0, 0]


def test_a_worker_that_fails_ends_the_others_after_their_run(tmp_path, monkeypatch):
    failed = Event()

    def breaks(here, verdict):
        if verdict.number == 0:
            failed.set()
            raise LoopbackError("it does not come up")
        failed.wait()
        sleep(0.1)

    monkeypatch.setattr(faults, "federation", lambda folder, up: Here())
    monkeypatch.setattr(faults, "break_once", breaks)
    options = faults.parser().parse_args(["--n", "50"])
    series = faults.Series(options, tmp_path, lambda line, hit: None)
    with pytest.raises(LoopbackError, match="does not come up"):
        series.play([tmp_path] * 2)
    assert list(series.verdicts) in ([], [1])


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"seed": 0, "kinds": [], "runs": [{"trained": {}}]}']
)
def test_what_holds_no_results_is_reported_and_left(tmp_path, content):
    (tmp_path / "faults.json").write_text(content)
    console = Console(width=500, record=True)
    assert faults.run(["--out", str(tmp_path)], console) == 1
    assert "faults.json holds no results of a fault run" in console.export_text()
    assert (tmp_path / "faults.json").read_text() == content


@pytest.mark.parametrize("error", [LoopbackError("it does not come up"), OSError("no more disk")])
def test_what_cannot_be_mended_ends_the_series(tmp_path, monkeypatch, error):
    def breaks(here, verdict):
        raise error

    monkeypatch.setattr(faults, "federation", lambda folder, up: Here())
    monkeypatch.setattr(faults, "break_once", breaks)
    options = faults.parser().parse_args([])
    series = faults.Series(options, tmp_path, lambda line, hit: None)
    with pytest.raises(type(error), match=str(error)):
        series.play([tmp_path])


def test_what_is_set_up_when_all_is_taken_down_is_taken_down_too():
    done = []

    @contextmanager
    def slow(name):
        done.append(f"{name} up")
        setting_up.set()
        sleep(0.2)
        yield
        done.append(f"{name} down")

    def set_up():
        up.enter_context(slow("disks"))
        taken_down.wait()
        with pytest.raises(FaultError, match="was stopped"):
            up.enter_context(slow("more"))
        done.append("reported")

    up, setting_up, taken_down = faults.Teardown(), Event(), Event()
    with up:
        thread = Thread(target=set_up)
        thread.start()
        setting_up.wait()
        # and now somebody stops the command
    taken_down.set()
    thread.join()
    assert done == ["disks up", "disks down", "reported"]


# ------------------------------------------------------------------ the slow network


def test_all_bytes_come_through_a_slow_network():
    async def talk(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(bytes(range(200)))
        writer.write_eof()
        return await reader.read()

    async def echo(reader, writer):
        writer.write((await reader.readexactly(200))[::-1])
        writer.close()

    async def through():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with SlowNetwork(port, delay=0.01, piece=50).open() as network:
            start = asyncio.get_running_loop().time()
            answer = await talk(network.port)
            assert asyncio.get_running_loop().time() - start >= 8 * 0.01
            assert network.passed == 400
        server.close()
        return answer

    assert asyncio.run(through()) == bytes(range(200))[::-1]


# ------------------------------------------------------------------ real processes


@pytest.mark.deployment
def test_after_two_faults_nothing_is_lost_or_torn(tmp_path):
    console = Console(width=120)
    status = faults.run(["--n", "2", "--seed", "0", "--out", str(tmp_path)], console)
    found = json.loads((tmp_path / "faults.json").read_text())
    assert (found["injected"], found["completed"]) == (2, 2), found
    assert (found["lost"], found["torn"], status) == (0, 0, 0), found
