"""A grid without some of its nodes: what is not there cannot be sampled."""

from collections.abc import Collection, Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run


class GridWithout(Grid):
    """Another grid, as a strategy is to see it: without certain nodes.

    Parameters
    ----------
    grid : the whole grid
    left_out : ids of the nodes that are not to be sampled
    """

    def __init__(self, grid: Grid, left_out: Collection[int]) -> None:
        self.grid = grid
        self.left_out = frozenset(left_out)

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self.grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run."""
        return self.grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a new message."""
        return self.grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the nodes that are not left out."""
        return [node for node in self.grid.get_node_ids() if node not in self.left_out]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages."""
        return self.grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there."""
        return self.grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and return the replies."""
        return self.grid.send_and_receive(messages, timeout=timeout)
