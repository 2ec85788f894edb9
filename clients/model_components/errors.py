"""The error of a rule that does not fit a network."""

from collections.abc import Iterable

__all__ = ["ScopeError"]


class ScopeError(ValueError):
    """A rule that matches nothing, or an entry with no scope or two; its parameters are attributes.

    Parameters
    ----------
    message : str
        What is wrong and what would be right.
    rule : str, optional
        The rule, or the word of it, that is wrong.
    choices : iterable of str, optional
        What the model has instead.
    entries : iterable of str, optional
        The state-dict entries concerned.
    scopes : iterable of Scope, optional
        The scopes that these entries would have.
    """

    def __init__(
        self,
        message: str,
        *,
        rule: str | None = None,
        choices: Iterable[str] = (),
        entries: Iterable[str] = (),
        scopes: Iterable[str] = (),
    ) -> None:
        super().__init__(message)
        self.rule = rule
        self.choices = tuple(choices)
        self.entries = tuple(entries)
        self.scopes = tuple(scopes)
