"""What a subclass of a strategy overrides, and what happens where it does not."""

from collections.abc import Mapping, Sequence
from typing import Any

from flwr.app import ArrayRecord
from numpy.typing import NDArray

from strategies.privacy import with_integers_of
from strategies.replies import Reply
from strategies.reply_comparison import Sizes
from strategies.reply_validation import array_sizes
from strategies.rounds import Round


class Hooks:
    """The hooks of :class:`strategies.ClientStrategy`, whose documentation has them in a table."""

    round: Round
    """The phase of the round at hand."""

    unseen_state: tuple[str, ...] = ()
    """Attributes that asking clients outside of the rounds leaves as they were."""

    refuses_privacy = ""
    """Why none of Flower's privacy wrappers and mods can be used; empty if they can."""

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """Return what the strategy carries from round to round, for a checkpoint: nothing here."""
        return {}

    def load_state_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what :meth:`state_arrays` returned."""

    def first_arrays(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return what the clients are sent first, from the model's own shared arrays."""
        return arrays

    def outcome(self) -> dict[str, Any]:
        """Return what the strategy has to show beside its arrays, by name: nothing here."""
        return {}

    def client_arrays(self) -> dict[int, ArrayRecord]:
        """Return client -> arrays of its own that it is sent, of all clients: none here."""
        return {}

    def prepare(self, current: Round) -> None:
        """Do what is to be done before the messages of a phase are made: nothing here.

        Parameters
        ----------
        current : Round
            The phase; ``nodes`` and ``config`` may be changed.
        """

    def valid(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return arrays that a wrapper has added noise to, such that clients can take them.

        Here integers and booleans become those that were sent last.
        """
        return with_integers_of(self.round.sent, arrays)

    def arrays_for(self, node: int, current: Round) -> ArrayRecord:
        """Return what a node is sent: the same object where it is the same for several."""
        return current.sent

    def report_fields(self, client: int) -> dict[str, float]:
        """Return what is to be reported of a client beside its own metrics."""
        return {}

    def check_reply(self, reply: Reply) -> None:
        """Refuse the reply to a training if no client's data can give it: none is refused here.

        It can be read, and has the arrays that it is to have, when this is called.

        Raises
        ------
        ValueError
            With the reason, for which the reply is dropped.
        """

    def reply_sizes(self, replies: Sequence[Reply]) -> Sizes:
        """Return the statistics of replies to a training by which one may be an outlier.

        Here they are those of :func:`strategies.reply_validation.array_sizes`; see
        :func:`strategies.reply_comparison.drop_outliers` for what an outlier is.

        Parameters
        ----------
        replies : sequence of Reply
            Those that can be used by themselves, at least one.
        """
        return array_sizes(replies)

    def aggregate_arrays(self, replies: list[Reply]) -> ArrayRecord:
        """Return the new shared arrays; may mark replies dropped, with the reason.

        Parameters
        ----------
        replies : list of Reply
            The good ones of the round, ordered by their clients' numbers.
        """
        raise NotImplementedError
