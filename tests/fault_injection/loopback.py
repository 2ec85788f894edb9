"""A federation of real processes on this machine: one SuperLink, some SuperNodes, ``flwr run``."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from pfl_flower.certificates import (
    AUTHORITY,
    SERVER,
    SERVER_KEY,
    make_authority,
    make_node_key,
    make_server,
)
from tests.fault_injection.text import toml

ROOT = Path(__file__).parents[2]
APP = ("pfl_flower", "strategies", "clients", "simulations", "pyproject.toml", "README.md")

LINK = "loopback"
"""What ``flwr run`` calls the SuperLink."""


class LoopbackError(RuntimeError):
    """A process that did not come up, or went away."""


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Loopback:
    """One SuperLink and SuperNodes, each a process of its own, with TLS and authentication.

    Use it in a ``with``; at its end every process is stopped.

    Parameters
    ----------
    folder : of everything: Flower's home, certificates, logs, personal parameters
    num_nodes : number of SuperNodes there may be
    secure : with TLS and authentication of SuperNodes, or without both
    app : folder of the app that is run; this one by default
    """

    folder: Path
    num_nodes: int
    secure: bool = True
    app: Path | None = None
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    closed: bool = False
    """Whether nothing is to be started any more."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.certificates = self.folder / "certificates"
        self.home = self.folder / "flwr"
        self.home.mkdir(exist_ok=True)
        if self.app is None:
            self.app = self.folder / "app"
            if not self.app.exists():
                self.app.mkdir()
                for name in APP:
                    copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
                    copy(ROOT / name, self.app / name)
        self.port = free_port()
        if self.secure and not self.certificates.exists():
            make_authority(self.certificates)
            make_server(self.certificates, ["localhost", "127.0.0.1"])
            for node in range(self.num_nodes):
                make_node_key(self.certificates, f"node-{node}")
        self._configure()

    def __enter__(self) -> "Loopback":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process, and let none be started any more, such as by another thread."""
        self.closed = True
        for name in list(self.processes):
            self.stop(name)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every process: a Flower home of its own, this Python first."""
        found = dict(os.environ)
        found["FLWR_HOME"] = str(self.home)
        found["HOME"] = str(self.folder)
        found["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{found['PATH']}"
        before = found.get("PYTHONPATH")
        found["PYTHONPATH"] = f"{self.app}{os.pathsep}{before}" if before else str(self.app)
        return found

    # ------------------------------------------------------------------ processes

    def start_link(self) -> None:
        """Start the SuperLink with its database and wait until it answers."""
        command = [
            *("flower-superlink", "--database", str(self.folder / "link.db")),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            "--disable-runtime-dependency-installation",
        ]
        if self.secure:
            at = self.certificates
            command += ["--ssl-ca-certfile", str(at / AUTHORITY), "--enable-supernode-auth"]
            command += ["--ssl-certfile", str(at / SERVER), "--ssl-keyfile", str(at / SERVER_KEY)]
        else:
            command += ["--insecure"]
        self._start("link", command)
        self._wait_for(self.port, "link")

    def start_node(
        self,
        number: int,
        settings: Mapping[str, Any] = {},
        key: Path | None = None,
        authority: Path | None = None,
        link_port: int | None = None,
        keyless: bool = False,
    ) -> None:
        """Start SuperNode ``number``.

        Parameters
        ----------
        number : from 0
        settings : its node config, beside ``partition-id``, ``num-partitions``, ``personal-dir``
        key, authority : instead of its own key, and of the authority it is to trust
        link_port : where it finds the SuperLink, such as a proxy; the SuperLink itself by default
        keyless : it has no key at all
        """
        port = free_port()
        config = {
            "partition-id": number,
            "num-partitions": self.num_nodes,
            "personal-dir": str(self.folder / "personal"),
            **settings,
        }
        words = " ".join(
            f'{name}="{value}"' if isinstance(value, str) else f"{name}={value}"
            for name, value in config.items()
        )
        command = [
            *("flower-supernode", "--superlink", f"127.0.0.1:{link_port or self.port}"),
            *("--host", "127.0.0.1", "--port", str(port), "--node-config", words),
        ]
        if self.secure:
            own = self.certificates / f"node-{number}"
            command += ["--root-certificates", str(authority or self.certificates / AUTHORITY)]
            command += [] if keyless else ["--auth-supernode-private-key", str(key or own)]
        else:
            command += ["--insecure"]
        self._start(f"node-{number}", command)

    def register(self, number: int) -> None:
        """Make the SuperLink know the key of a SuperNode."""
        key = self.certificates / f"node-{number}.pub"
        done = self.flwr("supernode", "register", str(key), LINK)
        if "registered" not in done:
            raise LoopbackError(f"node {number} was not registered: {done}")

    def kill(self, name: str, sent: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a process and all that it has started, and wait for its end."""
        process = self.processes.pop(name)
        os.killpg(process.pid, sent)
        process.wait(30)

    def signal(self, name: str, sent: signal.Signals) -> None:
        """Send a signal to a process and all that it has started, and leave it at that."""
        os.killpg(self.processes[name].pid, sent)

    def stop(self, name: str) -> None:
        """End a process with all that it has started; it is forced to where it does not."""
        process = self.processes.pop(name, None)
        if process is None:
            return  # another thread was faster
        for sent, wait in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
            try:
                os.killpg(process.pid, sent)
                process.wait(wait)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue

    def log(self, name: str) -> str:
        """Return what a process has said so far."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    # ------------------------------------------------------------------ runs

    def flwr(self, *words: str, timeout: float = 600) -> str:
        """Run a command of ``flwr`` and return what it says.

        Raises
        ------
        LoopbackError
            If it takes longer than ``timeout`` seconds.
        """
        try:
            done = subprocess.run(
                ["flwr", *words],
                check=False,
                cwd=self.app,
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as error:
            raise LoopbackError(f"'flwr {words[0]}' did not end in {timeout:g} s") from error
        return done.stdout + done.stderr

    def run(self, run_config: Mapping[str, Any], timeout: float = 600) -> str:
        """Run the app to its end, and return what the run said."""
        return self.flwr(
            *("run", ".", LINK, "--stream", "--run-config", toml(run_config)), timeout=timeout
        )

    def begin(self, run_config: Mapping[str, Any]) -> None:
        """Begin to run the app, as a process named ``run``, and do not wait for its end."""
        words = ("--stream", "--run-config", toml(run_config))
        self._start("run", ["flwr", "run", str(self.app), LINK, *words])

    def wait_for_end(self, name: str, seconds: float) -> int:
        """Wait for a process that ends by itself; return its exit status.

        Raises
        ------
        LoopbackError
            If it takes longer.
        """
        try:
            status = self.processes[name].wait(seconds)
        except subprocess.TimeoutExpired as error:
            said = self.log(name)[-2000:]
            raise LoopbackError(f"{name} is not at its end after {seconds:g} s: {said}") from error
        self.processes.pop(name, None)  # another thread may have stopped it
        return status

    # ------------------------------------------------------------------ the inside

    def _configure(self) -> None:
        lines = [f"[superlink.{LINK}]", f'address = "127.0.0.1:{self.port}"']
        if self.secure:
            lines.append(f'root-certificates = "{self.certificates / AUTHORITY}"')
        else:
            lines.append("insecure = true")
        (self.home / "config.toml").write_text("\n".join(lines) + "\n")

    def _start(self, name: str, command: Sequence[str]) -> None:
        if self.closed:
            raise LoopbackError("the federation was taken down")
        if name in self.processes:
            raise LoopbackError(f"{name} is running already")
        with (self.folder / f"{name}.log").open("ab") as stream:
            self.processes[name] = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that it ends with all that it has started
            )

    def _wait_for(self, port: int, name: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            process = self.processes.get(name)  # none where another thread has stopped it
            if process is None or process.poll() is not None:
                raise LoopbackError(f"{name} ended: {self.log(name)[-2000:]}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.1)
        raise LoopbackError(f"{name} does not answer: {self.log(name)[-2000:]}")
