"""The kinds of faults: how each is brought about, and how it is known to have hit.

A kind begins the run of a trial, lets the fault happen, undoes it where somebody would (starts a
killed process again, empties a disk), and returns in words what shows that it hit. Where it did
not hit, it raises :class:`MissedError`.
"""

import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from tests.fault_injection.federation import PATIENCE, ROUNDS, until
from tests.fault_injection.hooks import BALLAST
from tests.fault_injection.slow_network import SlowNetwork
from tests.fault_injection.trial import Trial, seconds_since

Inject = Callable[[Trial], str]


class MissedError(RuntimeError):
    """A fault that did not come about; the run says nothing about it."""


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes
    ----------
    what : in words
    inject : brings it about
    finds : the state that must be on the victim's disk right after the fault: the last one that it
        had ``kept``, or the one that it was ``keeping``; empty where the fault is not in training
    misses : whether the victim may miss a round; never the last one
    """

    what: str
    inject: Inject
    finds: Literal["kept", "keeping", ""] = ""
    misses: bool = True


def _killed(moment: str) -> Inject:
    def inject(trial: Trial) -> str:
        federation, node = trial.federation, trial.victim
        federation.order(node, moment, "kill", trial.round)
        trial.begin()
        until(f"node {node} is killed {moment}", lambda: federation.has_ended(node))
        if not trial.hit():
            raise MissedError(f"node {node} ended before its order was carried out")
        status = federation.link.processes[f"node-{node}"].poll()
        if status != -signal.SIGKILL:
            raise MissedError(f"node {node} ended with status {status}, not by SIGKILL")
        trial.note_state()
        federation.restart(node)
        return f"its journal has the hit {moment!r}, its process ended by SIGKILL"

    return inject


def _restarted(trial: Trial) -> str:
    """A SuperNode is stopped (SIGTERM) and started when a round is over, before the next one."""
    federation, node = trial.federation, trial.victim
    trial.begin()
    trial.until_round_is_over(trial.round)
    if trial.was(node, "received", "train", trial.round + 1):
        raise MissedError(f"node {node} had the next round already")
    federation.link.stop(f"node-{node}")
    if trial.was(node, "received", "train", trial.round + 1):
        raise MissedError(f"node {node} had the next round already")
    trial.note_state()
    federation.start(node)
    return f"its process ended after round {trial.round}, before a message of the next one"


def _link_killed(trial: Trial) -> str:
    """The SuperLink is killed in a round, restarted with its database, and the run resumed."""
    link, node = trial.federation.link, trial.victim
    trial.begin()
    until(
        f"node {node} trains in round {trial.round}",
        lambda: trial.was(node, "received", "train", trial.round),
    )
    link.kill("link")
    complete = trial.complete_rounds()
    if (trial.results / "summary.json").exists():
        raise MissedError("the run was over when the SuperLink was killed")
    link.stop("run")
    link.start_link()
    trial.resume()
    return f"the SuperLink was killed after round {complete} of {ROUNDS} was complete"


def _hanging(trial: Trial) -> str:
    """A node stands still (SIGSTOP) until the round has gone on without it, then wakes up."""
    federation, node = trial.federation, trial.victim
    federation.order(node, "before training", "hang", trial.round)
    trial.begin()
    until(f"node {node} hangs", trial.hit)
    start = time.monotonic()
    other = trial.others[0]
    until(
        "the round goes on without it",
        lambda: trial.was(other, "received", "evaluate", trial.round),
    )
    waited = seconds_since(start)
    if trial.was(node, "answered", "train", trial.round):
        raise MissedError(f"node {node} did not stand still")
    federation.link.signal(f"node-{node}", signal.SIGCONT)
    return f"it stood still for {waited} s, and the others went on to evaluate round {trial.round}"


def _joining(trial: Trial) -> str:
    """A node is not there at the start, and joins when two rounds are over."""
    federation, node = trial.federation, trial.victim
    federation.link.stop(f"node-{node}")
    trial.begin(min_nodes=len(trial.others), num_server_rounds=ROUNDS + 1)
    trial.until_round_is_over(2)
    if trial.entries(node):
        raise MissedError(f"node {node} was there before")
    federation.start(node)
    return "its journal has no message of rounds 1 and 2"


def _slow(trial: Trial) -> str:
    """All that a node sends and receives is held back and drips."""
    federation, node = trial.federation, trial.victim
    with SlowNetwork(federation.link.port).open() as network:
        federation.ports[node] = network.port
        federation.restart(node)
        trial.begin()
        trial.until_round_is_over(ROUNDS, 3 * PATIENCE)
        passed = network.passed
        federation.ports.clear()
        federation.link.stop(f"node-{node}")
    federation.start(node)
    if not (passed and trial.was(node, "answered", "train", trial.round)):
        raise MissedError(f"{passed} bytes came through the slow network, and no training")
    return (
        f"{passed} bytes went through it, {network.piece} at a time, each {network.delay:g} s late"
    )


def _full_disk(trial: Trial) -> str:
    """A disk is full when the state is to be kept; it is emptied after the round."""
    federation, node = trial.federation, trial.victim
    # Not before: giving the state before its second name frees as much as a new one takes.
    act = "fill" if federation.mounted else "refuse"
    federation.order(node, "before writing", act, trial.round)
    trial.begin()
    until(f"the disk of node {node} is full", trial.hit)
    until(
        f"node {node} is refused",
        lambda: any(entry.event in ("refused", "answered") for entry in trial.after_hit()),
    )
    if not any(entry.event == "refused" for entry in trial.after_hit()):
        raise MissedError(f"the disk of node {node} took the state")
    trial.note_state()
    trial.until_round_is_over(trial.round)
    (federation.disk(node) / BALLAST).unlink(missing_ok=True)
    how = "a full tmpfs" if federation.mounted else "an error of the system (ENOSPC), made up"
    return f"keeping the state was refused by {how}"


FAULTS: Mapping[str, Kind] = {
    "killed-before-training": Kind(
        "a SuperNode is killed before it trains", _killed("before training"), "kept"
    ),
    "killed-in-training": Kind(
        "a SuperNode is killed between two steps of training", _killed("during training"), "kept"
    ),
    "killed-after-training": Kind(
        "a SuperNode is killed with its state kept and its reply not sent",
        _killed("after training"),
        "keeping",
    ),
    "killed-in-writing": Kind(
        "a SuperNode is killed when half of its state is written", _killed("half written"), "kept"
    ),
    "killed-before-rename": Kind(
        "a SuperNode is killed when its state is written and not yet in its place",
        _killed("before the rename"),
        "kept",
    ),
    "killed-after-rename": Kind(
        "a SuperNode is killed when its state is in its place and not yet reported",
        _killed("after the rename"),
        "keeping",
    ),
    "killed-after-second-name": Kind(
        "a SuperNode is killed when the state before has got its second name",
        _killed("after the second name"),
        "kept",
    ),
    "restarted": Kind("a SuperNode is restarted between two rounds", _restarted),
    "link-killed": Kind(
        "the SuperLink is killed and restarted, the run resumed",
        _link_killed,
        misses=False,
    ),
    "hanging": Kind("a SuperNode hangs past the timeout", _hanging),
    "joining": Kind("a SuperNode joins when two rounds are over", _joining),
    "slow-network": Kind("the network of a SuperNode is slow", _slow, misses=False),
    "full-disk": Kind("the disk of a device is full", _full_disk, "kept"),
}
"""Name -> kind of fault."""
