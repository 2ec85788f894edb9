"""The ClientApp of a fault run: the app's own, with a journal, on a device that can be broken.

It stands beside the app, so that nothing in the app knows of faults. An order, a file
``node-<partition>.json`` in the folder that the node config names as ``faults``, says at which
moment of which round the device is to break. It is carried out once.
"""

import errno
import json
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients.state.personal_state import PersonalState, Snapshot
from pfl_flower.client_app import app as own_app
from strategies.arrays import Spec
from strategies.protocol import CONFIG, PARTITION_ID, SERVER_ROUND
from tests.fault_injection.journal import Entry, append, digest_of
from tests.fault_injection.moments import MOMENTS

FAULTS = "faults"
"""Node config: the folder of journals and orders."""

BALLAST = "ballast"
"""File in the personal directory that fills its disk."""

_BLOCK = 4096


@dataclass(frozen=True)
class Device:
    """The device that this process runs on.

    Attributes
    ----------
    folder : of journals and orders
    number : of its partition
    disk : its personal directory
    """

    folder: Path
    number: int
    disk: Path

    @property
    def journal(self) -> Path:
        """Where it writes down what it does."""
        return self.folder / f"node-{self.number}.jsonl"

    @property
    def order(self) -> Path:
        """What is to break."""
        return self.folder / f"node-{self.number}.json"

    def note(self, entry: Entry) -> None:
        """Write a line."""
        append(self.journal, entry)


class BreakingApp(ClientApp):
    """The app's own ClientApp, on a device that keeps a journal and breaks when ordered to."""

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message."""
        config = context.node_config
        device = Device(
            Path(str(config[FAULTS])),
            cast(int, config[PARTITION_ID]),
            Path(str(config["personal-dir"])),
        )
        about: Mapping[str, Any] = message.content.config_records.get(CONFIG, {})
        server_round, kind = (
            int(about.get(SERVER_ROUND, 0)),
            message.metadata.message_type,
        )
        device.note(Entry("received", server_round, kind))
        _watch(device, kind)
        _arm(device, server_round, kind)
        reply = own_app(message, context)
        device.note(Entry("answered", server_round, kind))
        return reply


app = BreakingApp()


def _watch(device: Device, kind: str) -> None:
    """Write down every personal state that is found and kept from here on."""
    load, save = PersonalState.load, PersonalState.save

    def noted_load(self: PersonalState, expected: Spec, before: int = 0) -> Snapshot | None:
        found = load(self, expected, before)
        number, run, digest = (0, "", "")
        if found is not None:
            number, run, digest = found.round, found.run, digest_of(found.arrays)
        device.note(Entry("loaded", number, kind, run, digest, before, self.run))
        return found

    def noted_save(self: PersonalState, snapshot: Snapshot, expected: Spec) -> None:
        about = (snapshot.round, kind, self.run, digest_of(snapshot.arrays))
        device.note(Entry("keeping", *about))
        try:
            save(self, snapshot, expected)
        except Exception:
            device.note(Entry("refused", *about))
            raise
        device.note(Entry("kept", *about))

    PersonalState.load = noted_load  # type: ignore[method-assign]
    PersonalState.save = noted_save  # type: ignore[method-assign]


def _arm(device: Device, server_round: int, kind: str) -> None:
    """Make the device break at the moment it is ordered to, if that is in this message."""
    if not device.order.exists():
        return
    order = json.loads(device.order.read_text())
    if (order["message"], order["round"]) != (kind, server_round):
        return

    def strike() -> None:
        if not device.order.exists():
            return  # once only
        device.order.unlink()
        device.note(Entry("hit", server_round, order["moment"]))
        ACTS[order["act"]](device)

    MOMENTS[order["moment"]](strike)


def _kill(device: Device) -> None:
    os.killpg(os.getpgrp(), signal.SIGKILL)  # the SuperNode and all that it has started


def _hang(device: Device) -> None:
    os.killpg(os.getpgrp(), signal.SIGSTOP)


def _fill(device: Device) -> None:
    """Write until the disk has not a byte left."""
    with (device.disk / BALLAST).open("ab", buffering=0) as stream:
        for size in (_BLOCK, 1):
            try:
                while stream.write(b"\0" * size):
                    continue
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


def _refuse(device: Device) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


ACTS: Mapping[str, Callable[[Device], None]] = {
    "kill": _kill,
    "hang": _hang,
    "fill": _fill,
    "refuse": _refuse,
}
