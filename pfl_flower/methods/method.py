"""What a method is: a row of the table, and the run keys that it has for itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from clients import PersonalClient, Scope
from clients.scopes import names_of
from strategies import PartialAveraging

if TYPE_CHECKING:
    from pfl_flower.client.build import ClientBuild
    from pfl_flower.config.run_config import RunConfig
    from pfl_flower.model_setup import ModelSetup
    from pfl_flower.results.method_run import MethodRun

COMMON_DEFAULTS: Mapping[str, Any] = {
    "personal": "none",
    "schedule": "joint",
    "mu": 0.0,
    "personal_decay": 0.0,
    "norm": "batch",
    "weighting": "examples",
}
"""Common keys whose default a method decides -> the default of most methods."""


@dataclass(frozen=True)
class MethodKeys:
    """The run keys that a method has beyond the common ones: here none.

    A family's own keys are the fields of a subclass, each made by
    :func:`pfl_flower.config.validators.key` with its default, a line of help, a check, and whom it
    is passed ``to``: the method's client, its strategy, or both. A key has one name from the run
    config (``fisher-decay``) to the argument (``fisher_decay``). What else a method decides is a
    method below that its class overrides.
    """

    def check(self, config: "RunConfig") -> None:
        """Refuse values that do not fit together or do not fit the config.

        Called before anything is asked, when ``config.known_schema`` may be None, and again once
        the data schema is known.

        Raises
        ------
        ValueError
            If they do not.
        """

    def check_network(self, config: "RunConfig", model: nn.Module) -> None:
        """Refuse a network without what the method's rules are about, before they are applied.

        Raises
        ------
        ValueError
            If it has none.
        """

    def check_model(self, setup: "ModelSetup") -> None:
        """Refuse a network that the method has no use for.

        Raises
        ------
        ValueError
            If there is none.
        """

    def group_rule(self, config: "RunConfig") -> str:
        """Return the rule of what is shared within groups of clients only."""
        return "none"

    def personal_names(self, setup: "ModelSetup") -> list[str]:
        """Return the entries of the network of which every client has a value of its own."""
        return names_of(setup.scopes, Scope.PERSONAL)

    def client_properties(self, build: "ClientBuild") -> Mapping[str, bool | int | float | str]:
        """Return what a client reports of itself when it is asked for properties."""
        return {}

    def client_arguments(self, build: "ClientBuild") -> dict[str, Any]:
        """Return the arguments of the method's client beyond those of every client."""
        return self.passed_to("client")

    def strategy_arguments(self, setup: "ModelSetup") -> dict[str, Any]:
        """Return the arguments of the method's strategy beyond those of every strategy."""
        return self.passed_to("strategy")

    def passed_to(self, whom: Literal["client", "strategy"]) -> dict[str, Any]:
        """Return the keys that are passed on as they are: argument -> value."""
        passed = (item.name for item in fields(self) if whom in item.metadata["to"])
        return {name: getattr(self, name) for name in passed}


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Parameters
    ----------
    summary, source : str
        What it does, in a line; the paper.
    keys : type, default MethodKeys
        The run keys of its own.
    defaults : mapping
        Its own defaults of common keys that the user left empty, such as ``personal``.
    refuses : mapping
        Common run key, with hyphens -> why it has no place in the method, even as a baseline.
    ignores : mapping
        Common run key, with hyphens -> why it has no effect on the method. It is refused where no
        other method of the run has a use for it.
    block : str
        Kind of network that the method needs: ``""``, ``"se"``, ``"adapter"`` or ``"low-rank"``.
    freezes : str
        Rule of what is frozen under the method, beside what the network's builder froze; what is
        not there is no error.
    model : str
        The only network that the method can do with; empty for any.
    graphs : bool
        Whether it is for graphs only.
    local_model : str
        Whether every client ends with a whole model of its own: ``""``, ``"kept"`` in the personal
        state, or ``"computed"`` anew whenever it is asked.
    sums : bool
        Whether it is made of sums over examples, of which none may be there several times.
    fine_tunes : str
        Rule of scopes that are trained at evaluation: ``""``, ``"all"`` or ``"personal"``.
    fine_tunes_every_round : bool
        At every evaluation, or only after the last round.
    strengths : mapping
        The run key that is the method's own strength -> values worth trying.
    strategy : callable
        The server side; called with the arguments of :class:`strategies.PartialAveraging`.
    client : callable
        The device side; called with the arguments of :class:`clients.PersonalClient`.
    write : callable, optional
        (results folder, runs of all methods) -> None: writes files of its own; passes over the
        runs of other methods.
    summarize : callable, optional
        Run -> further entries of ``summary.json``.
    describe : callable, optional
        (run, whether clients have something personal) -> whose model a client has, in words.
    """

    summary: str
    source: str
    keys: type[MethodKeys] = MethodKeys
    defaults: Mapping[str, Any] = field(default_factory=dict)
    refuses: Mapping[str, str] = field(default_factory=dict)
    ignores: Mapping[str, str] = field(default_factory=dict)
    block: str = ""
    freezes: str = ""
    model: str = ""
    graphs: bool = False
    local_model: Literal["", "kept", "computed"] = ""
    sums: bool = False
    fine_tunes: str = ""
    fine_tunes_every_round: bool = False
    strengths: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    strategy: Callable[..., PartialAveraging] = PartialAveraging
    client: Callable[..., PersonalClient] = PersonalClient
    write: Callable[[Path, Sequence["MethodRun"]], None] | None = None
    summarize: Callable[["MethodRun"], Mapping[str, Any]] | None = None
    describe: Callable[["MethodRun", bool], str] | None = None

    def default(self, name: str) -> Any:
        """Return the method's default of a common key that the user left empty."""
        return self.defaults.get(name, COMMON_DEFAULTS[name])


WHOLE_MODEL = "every client has a whole model of its own, beside which nothing is personal"
LOCAL_MODEL: dict[str, str] = {"personal": WHOLE_MODEL, "personal-decay": WHOLE_MODEL}
"""What a method with local models refuses."""

_STEP_KEYS = ("local-epochs", "local-steps", "optimizer", "learning-rate", "momentum")
SOLVED: dict[str, str] = dict.fromkeys(
    (*_STEP_KEYS, "weight-decay", "gradient-clip", "adaptation-steps"),
    "nothing is trained in steps",
)
"""What a method ignores whose clients solve equations."""
