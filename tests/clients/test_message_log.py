"""What leaves a device is told, and nothing personal leaves it."""

import logging

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict

from clients.message_log import INSPECT, PersonalLeakError, check_leaks, inspector
from clients.personal import PersonalClient
from clients.state.personal_state import PersonalState, Snapshot
from pfl_flower.client_app import make_app
from pfl_flower.config.run_config import RunConfig
from pfl_flower.grid import InProcessGrid, identify_process
from pfl_flower.server.run import play
from strategies.arrays import to_record

SMALL = {"num-server-rounds": 2, "local-epochs": 1, "baselines": "", "max-examples": 30}


def arrays(**values):
    named = {name.replace("__", "/"): np.asarray(value) for name, value in values.items()}
    return dict(to_record(named).items())


def content(**values):
    return RecordDict({"arrays": ArrayRecord(arrays(**values))})


def drawn(*shape, seed=0, kind=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(kind)


HEAD, BODY = drawn(10, 16), drawn(40, 16, seed=1)
AMONG_COUNTS = {
    name: value
    for i, weight in enumerate(HEAD.flat)
    for name, value in ((f"n{i}", i), (f"w{i}", float(weight)))
}
KERNEL = drawn(4, 3, 5, 2, seed=7)


def test_the_name_of_something_personal_is_refused_unless_the_server_sent_it():
    kept = arrays(personal__head=HEAD)
    check_leaks(content(body=BODY), {}, kept)
    with pytest.raises(PersonalLeakError, match="'head' is personal"):
        check_leaks(content(head=BODY[:10]), {}, kept)
    # under another method of the same run the head is shared
    check_leaks(content(head=drawn(10, 16, seed=2)), arrays(head=BODY[:10]), kept)
    tuned = {"fine-tuned/head": kept["personal/head"]}
    check_leaks(content(head=drawn(10, 16, seed=2)), {}, tuned)


@pytest.mark.parametrize("part", ["personal", "fine-tuned", "precision"])
@pytest.mark.parametrize(
    "leak",
    {
        "itself": HEAD,
        "reshaped": HEAD.reshape(2, 80),
        "transposed": HEAD.T.copy(),
        "flipped over": np.asfortranarray(HEAD),
        "single row": HEAD[3],
        "a few columns": HEAD[:, 4:7].copy(),
        "double": HEAD.astype(np.float64),
        "half": HEAD.astype(np.float16),
        "half, within": np.concatenate([BODY, HEAD]).astype(np.float16),
        "within rows": np.concatenate([BODY, HEAD]),
        "within columns": np.concatenate([BODY[:10], HEAD], axis=1),
        "within a vector": np.concatenate([BODY.ravel(), HEAD.ravel()]),
        "one row within": np.concatenate([BODY, HEAD[5:6]]),
    }.items(),
    ids=lambda leak: leak[0],
)
def test_values_are_known_in_any_shape_and_type(part, leak):
    kept = {f"{part}/head": arrays(head=HEAD)["head"]}
    words = f"array 'body' has values of the client's own '{part}/head'"
    with pytest.raises(PersonalLeakError, match=words):
        check_leaks(content(body=leak[1]), arrays(body=np.zeros_like(leak[1])), kept)


@pytest.mark.parametrize("order", [(0, 2, 3, 1), (3, 2, 1, 0), (1, 0, 3, 2), (2, 3, 1, 0)])
def test_values_are_known_with_axes_in_another_order(order):
    with pytest.raises(PersonalLeakError, match="'personal/kernel'"):
        check_leaks(content(body=KERNEL.transpose(order)), {}, arrays(personal__kernel=KERNEL))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_small_and_whole_numbers_are_known_as_a_whole(kind):
    bias = np.array([0.25, -1.75, 0.5, 2.125], kind)
    kept = arrays(personal__bias=bias, personal__counts=np.arange(9) % 5)
    for leak in (bias, np.concatenate([BODY.ravel().astype(kind), bias, bias]), bias[1:]):
        if kind is np.float16 and len(leak) < 4:
            continue  # too little to tell
        with pytest.raises(PersonalLeakError, match="'personal/bias'"):
            check_leaks(content(body=leak), {}, kept)
    with pytest.raises(PersonalLeakError, match="'personal/counts'"):
        check_leaks(content(body=(np.arange(9) % 5.0).reshape(3, 3)), {}, kept)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (MetricRecord({"scores": HEAD.ravel().tolist()}), "the list 'scores' has values"),
        (MetricRecord({f"w{i}": float(v) for i, v in enumerate(HEAD.flat)}), "the numbers has"),
        (ConfigRecord({"told": HEAD.astype(float).ravel().tolist()}), "the list 'told' has"),
        (ConfigRecord({"told": HEAD.tobytes()}), "the bytes of 'told' has values"),
        (ConfigRecord({"told": HEAD.astype(float).tobytes() + b"."}), "the bytes of 'told'"),
        (ConfigRecord({"told": b"abc" + HEAD.tobytes()}), "the bytes of 'told'"),
        (ConfigRecord({"told": b"a" + HEAD.astype(np.float16).tobytes()}), "the bytes of 'told'"),
        (ConfigRecord({"told": [row.tobytes() for row in HEAD]}), "the bytes of 'told'"),
        (MetricRecord({f"w{i}": [float(v)] for i, v in enumerate(HEAD.flat)}), "the numbers has"),
        (
            MetricRecord(
                {
                    f"{k}{i}": v
                    for i, w in enumerate(HEAD.flat)
                    for k, v in (("n", i), ("w", float(w)))
                }
            ),
            "the numbers has",
        ),
        (ArrayRecord(arrays(body=HEAD + 1j * BODY[:10])), "array 'body' has"),
        (ArrayRecord(arrays(body=BODY[:10] + 1j * HEAD)), "array 'body' has"),
        (ArrayRecord(arrays(body=HEAD.view(np.uint8))), "the bytes of array 'body'"),
        (ArrayRecord(arrays(body=HEAD.view(np.int32))), "the bytes of array 'body'"),
        (ArrayRecord(arrays(**{f"w{i}": v for i, v in enumerate(HEAD.flat)})), "the numbers has"),
    ],
)
def test_metrics_and_configs_are_looked_through_too(record, words):
    with pytest.raises(PersonalLeakError, match=words):
        check_leaks(RecordDict({"told": record}), {}, arrays(personal__head=HEAD))


def test_honest_messages_are_let_through():
    fresh = np.zeros((10, 16), np.float32)
    check_leaks(content(body=fresh), {}, arrays(personal__head=fresh))  # both as they began
    check_leaks(content(body=fresh + 0.5), {}, arrays(personal__head=fresh + 0.5))
    mask = drawn(300) > 0
    check_leaks(content(body=mask), {}, arrays(personal__mask=mask[:4]))  # of whole numbers
    check_leaks(content(count=np.array(7)), {}, arrays(personal__steps=np.array(7)))
    check_leaks(content(body=HEAD), arrays(body=HEAD), arrays(personal__head=HEAD))  # sent back
    moved = BODY.copy()
    moved[:, 3:] += 0.01  # a part that no example has moved is the server's still
    check_leaks(content(body=moved), arrays(body=BODY), arrays(personal__head=BODY[:, :3] * 1))
    check_leaks(content(body=np.zeros((0, 3))), {}, arrays(personal__head=HEAD))
    check_leaks(content(body=np.full(4, np.nan)), {}, arrays(personal__head=np.full(4, np.inf)))
    check_leaks(content(told=[3, 1, 2]), {}, arrays(personal__counts=np.array([3, 1, 2])))
    tiny = np.array([1e-9, 2e-9, 0, 3e-9], np.float32)  # nothing, in half precision
    check_leaks(content(count=np.array(0)), {}, arrays(personal__bias=tiny))
    check_leaks(content(body=np.full(9, np.inf)), {}, arrays(personal__x=np.arange(1, 10) * 1e300))
    for nothing in (np.nan, 1 + 2j, True, 0.5):
        odd = arrays(personal__t=np.array(nothing))
        check_leaks(content(body=BODY, u=np.array(nothing)), {}, odd)
    same = np.repeat(HEAD[0], 8)  # in repetitions neighbours are equal by chance
    check_leaks(content(body=same), {}, arrays(personal__head=same.reshape(2, 64)[:, ::-1]))
    close = BODY.copy()
    close[7, 2:10] = HEAD[3, 4:12]  # seven pairs of neighbours that are those of the head's
    check_leaks(content(body=close), {}, arrays(personal__head=HEAD))
    numbers = MetricRecord({"num-examples": 3, "losses": [0.5, 0.25], "loss": 0.3})
    check_leaks(RecordDict({"told": numbers}), {}, arrays(personal__head=HEAD))


def test_chance_is_no_leak_in_half_precision():
    own, other = (drawn(500_000, seed=seed, kind=np.float16) for seed in (3, 4))
    check_leaks(content(body=other), {}, arrays(personal__head=own, personal__bias=own[:8]))


def test_what_was_kept_before_a_message_may_not_leave_either():
    def leaky(message, context):
        old = dict(context.state["personal.x"].items())["personal/head"]
        context.state["personal.x"] = ArrayRecord(arrays(personal__head=drawn(10, 16, seed=5)))
        return Message(RecordDict({"a": ArrayRecord({"body": old})}), reply_to=message)

    identify_process()
    state = RecordDict({"personal.x": ArrayRecord(arrays(personal__head=HEAD))})
    context = Context(1, 1, {INSPECT: True}, state, {})
    message = Message(RecordDict(), 1, "train")
    message.metadata.__dict__["_message_id"] = "1"
    with pytest.raises(PersonalLeakError, match="'body' has values of the client's own"):
        inspector(message, context, leaky)
    assert inspector(message, Context(1, 1, {}, state, {}), leaky).has_content()  # it is off


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_what_only_the_file_has_after_a_restart_may_not_leave_either(tmp_path, kind):
    spec = {"personal/head": ((10, 16), "float32")}
    saved = Snapshot(3, {"personal/head": torch.from_numpy(HEAD.copy())})
    PersonalState(RecordDict(), "fedper", "c", tmp_path).save(saved, spec)

    def leaky(message, context):
        state = PersonalState(context.state, "fedper", "c", tmp_path)
        snapshot = state.load(spec)
        if kind == "train":
            state.save(Snapshot(4, {"personal/head": torch.from_numpy(BODY[:10])}), spec)
        values = snapshot.arrays["personal/head"].numpy()
        return Message(content(body=values), reply_to=message)

    identify_process()
    context = Context(1, 1, {INSPECT: True}, RecordDict(), {})
    message = Message(RecordDict(), 1, kind)
    message.metadata.__dict__["_message_id"] = "1"
    with pytest.raises(PersonalLeakError, match="'body' has values of the client's own"):
        inspector(message, context, leaky)


@pytest.mark.parametrize(("used", "leaves"), [("b", True), ("a", False), (None, False)])
def test_a_method_may_send_what_another_one_keeps(used, leaves):
    """Whatever the message says that it is of."""

    def sends(message, context):
        if used:
            PersonalState(context.state, used)
        return Message(content(body=HEAD), reply_to=message)

    identify_process()
    state = RecordDict({"personal.a": ArrayRecord(arrays(personal__head=HEAD))})
    message = Message(RecordDict({"config": ConfigRecord({"method": "b"})}), 1, "train")
    message.metadata.__dict__["_message_id"] = "1"
    context = Context(1, 1, {INSPECT: True}, state, {})
    if leaves:
        assert inspector(message, context, sends).has_content()
    else:
        with pytest.raises(PersonalLeakError):
            inspector(message, context, sends)


def test_an_error_has_nothing_to_look_through():
    identify_process()
    message = Message(RecordDict(), 1, "train")
    message.metadata.__dict__["_message_id"] = "1"
    context = Context(1, 1, {INSPECT: True}, RecordDict(), {})
    reply = inspector(message, context, lambda m, _: Message(Error(2, "full"), reply_to=m))
    assert reply.error.reason == "full"


def play_with(monkeypatch, method, more=(), **node_config):
    """Play two rounds on three nodes; return the first run and what the clients said."""
    said = []
    monkeypatch.setattr(
        "clients.message_log.log", lambda level, form, *words: said.append((level, form % words))
    )
    config = RunConfig.parse(SMALL | {"method": method} | dict(more))
    grid = InProcessGrid(make_app(config.dump()), 3, node_config=lambda number: node_config)
    run, *_ = play(grid, config)
    return run, said


@pytest.mark.parametrize(
    "method", ["fedper", "fedavg-ft", "mr-mtl", "ditto", "apfl", "hierarchical-bayes", "lifelong"]
)
def test_an_inspected_run_is_the_same_run(monkeypatch, method):
    plain, quiet = play_with(monkeypatch, method)
    looked, loud = play_with(monkeypatch, method, **{INSPECT: True})
    assert plain.by_client() == looked.by_client()
    assert {level for level, _ in quiet} == {logging.DEBUG}
    assert {level for level, _ in loud} == {logging.INFO}


def test_a_line_says_what_came_stays_and_goes_in_names_and_bytes(monkeypatch, tmp_path):
    _, said = play_with(monkeypatch, "fedper", **{"personal-dir": str(tmp_path)})
    assert {level for level, _ in said} == {logging.INFO}
    trained = [words for _, words in said if ", round 2, train: received " in words]
    assert len(trained) == 3
    received, keeps, sends, tells = trained[0].split("; ")
    who, _, arrays = received.partition(", round 2, train: received ")
    assert who == "client 0"
    assert sends.removeprefix("sends ") == arrays
    assert keeps.startswith("keeps 2 arrays of")
    assert keeps.endswith("(personal/head.weight, personal/head.bias) for fedper")
    assert "head" not in sends
    assert {"train-loss", "num-examples"} <= set(tells.removeprefix("tells ").split(", "))


def test_a_device_with_a_name_is_told_its_number_before_it_trains(monkeypatch):
    _, said = play_with(monkeypatch, "fedper", name="ward", **{INSPECT: True})
    asked = next(words for _, words in said if "query: " in words)
    assert asked.startswith("ward (client 0), round -, query: received no arrays; keeps no arrays;")
    assert asked.endswith("tells partition-id, num-partitions, client-schema")


def test_a_client_that_would_send_its_head_sends_an_error(monkeypatch):
    honest = PersonalClient.get_parameters

    def leaky(self, config):
        sent = honest(self, config)
        if self.partition_id == 1:  # a mistake in somebody's own client
            sent[0] = self.entries["head.weight"].detach().numpy().copy()
        return sent

    monkeypatch.setattr(PersonalClient, "get_parameters", leaky)
    run, _ = play_with(monkeypatch, "fedper", **{INSPECT: True})
    dropped = {r.client: r.dropped for r in run.reports if r.phase == "train" and r.dropped}
    assert list(dropped) == [1]
    assert "has values of the client's own 'personal/head.weight'" in dropped[1]


@pytest.mark.parametrize("rounds", [1, 2])
def test_baselines_that_share_a_head_and_a_safeguard_are_let_through(monkeypatch, rounds):
    more = {"baselines": "fedavg,local", "safeguard": True, "num-server-rounds": rounds}
    run, _ = play_with(monkeypatch, "fedper", more, **{INSPECT: True})
    assert len(run.by_client()) == 3
    assert not any(report.dropped for report in run.reports)
