"""The table of methods. A method is a row: what it sets differently from plain averaging.

Adding a method is adding a row, plus one strategy or one client class where it truly differs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from clients import PersonalClient, body_only, head_then_body, joint
from clients.training import Schedule
from strategies import PartialAveraging

SCHEDULES: Mapping[str, Callable[[int, int, int], Schedule]] = {
    "joint": lambda epochs, steps, head_epochs: joint(epochs, steps),
    "head-then-body": head_then_body,
    "body-only": lambda epochs, steps, head_epochs: body_only(epochs, steps),
}
"""Name of a schedule -> (local epochs, local steps, head epochs) -> phases."""


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes
    ----------
    summary : what it does, in a line
    source : the paper
    settings : values for run-config keys that the user left empty
    block : kind of network that the method needs: ``""``, ``"se"`` or ``"adapter"``
    fine_tunes : rule of scopes trained at evaluation: ``""``, ``"all"`` or ``"personal"``
    fine_tunes_every_round : at every evaluation, or only after the last round
    strengths : the run-config key that is the method's own strength -> values worth trying
    strategy : the server side; called with the arguments of :class:`PartialAveraging`
    client : the device side; called with the arguments of :class:`PersonalClient`
    """

    summary: str
    source: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    block: str = ""
    fine_tunes: str = ""
    fine_tunes_every_round: bool = False
    strengths: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    strategy: Callable[..., PartialAveraging] = PartialAveraging
    client: Callable[..., PersonalClient] = PersonalClient


METHODS: Mapping[str, Method] = {
    "fedavg": Method(
        summary="one model for everybody: the weighted mean",
        source="McMahan et al. 2017, arXiv:1602.05629",
    ),
    "fedprox": Method(
        summary="FedAvg, each client held near the model it received",
        source="Li et al. 2020, arXiv:1812.06127",
        settings={"mu": 0.1},
        strengths={"mu": (0.01, 0.1, 1.0)},
    ),
    "local": Method(
        summary="every client alone; nothing is shared",
        source="the baseline without federation",
        settings={"personal": "all"},
    ),
    "fedavg-ft": Method(
        summary="FedAvg, then each client fine-tunes for a number of epochs it validates",
        source="Wang et al. 2019, arXiv:1910.10252; Wu et al. 2022 (Motley), arXiv:2206.09262",
        fine_tunes="all",
    ),
    "fedper": Method(
        summary="shared body, personal head, trained together",
        source="Arivazhagan et al. 2019, arXiv:1912.00818",
        settings={"personal": "head"},
    ),
    "fedrep": Method(
        summary="shared body, personal head, trained one after the other",
        source="Collins et al. 2021, arXiv:2102.07078",
        settings={"personal": "head", "schedule": "head-then-body"},
        strengths={"head-epochs": (1, 2, 5)},
    ),
    "fedbabu": Method(
        summary="shared body under a head that never trains; fine-tuned head at evaluation",
        source="Oh et al. 2022, arXiv:2106.06042",
        settings={"personal": "head", "schedule": "body-only"},
        fine_tunes="personal",
        fine_tunes_every_round=True,
    ),
    "lg-fedavg": Method(
        summary="personal body, shared head",
        source="Liang et al. 2020, arXiv:2001.01523",
        settings={"personal": "body"},
    ),
    "fedbn": Method(
        summary="everything shared but the normalization layers",
        source="Li et al. 2021, arXiv:2102.07623",
        settings={"personal": "norm"},
    ),
    "personal-se": Method(
        summary="everything shared but the squeeze-and-excitation blocks",
        source="after Hu et al. 2018, arXiv:1709.01507",
        settings={"personal": "se"},
        block="se",
    ),
    "adapters": Method(
        summary="shared core, small personal adapters pulled towards doing nothing",
        source="after Houlsby et al. 2019, arXiv:1902.00751",
        settings={"personal": "adapter", "personal_decay": 1e-3},
        strengths={"personal-decay": (1e-4, 1e-3, 1e-2)},
        block="adapter",
    ),
}
"""Name of a method -> its row."""
