"""Methods that are a rule of what is shared and what is personal, and plain averaging.

FedAvg, FedProx, FedPer, FedRep, FedBABU, LG-FedAvg, FedBN, personal squeeze-and-excitation,
personal adapters, fine-tuning, and training alone.
"""

from pfl_flower.methods.method import Method

METHODS = {
    "fedavg": Method(
        summary="one model for everybody: the weighted mean",
        source="McMahan et al. 2017, arXiv:1602.05629",
    ),
    "fedprox": Method(
        summary="FedAvg, each client held near the model it received",
        source="Li et al. 2020, arXiv:1812.06127",
        defaults={"mu": 0.1},
        strengths={"mu": (0.01, 0.1, 1.0)},
    ),
    "local": Method(
        summary="every client alone; nothing is shared",
        source="the baseline without federation",
        defaults={"personal": "all"},
    ),
    "fedavg-ft": Method(
        summary="FedAvg, then each client fine-tunes for a number of epochs it validates",
        source="Wang et al. 2019, arXiv:1910.10252; Wu et al. 2022 (Motley), arXiv:2206.09262",
        fine_tunes="all",
    ),
    "fedper": Method(
        summary="shared body, personal head, trained together",
        source="Arivazhagan et al. 2019, arXiv:1912.00818",
        defaults={"personal": "head"},
    ),
    "fedrep": Method(
        summary="shared body, personal head, trained one after the other",
        source="Collins et al. 2021, arXiv:2102.07078",
        defaults={"personal": "head", "schedule": "head-then-body"},
        strengths={"head-epochs": (1, 2, 5)},
    ),
    "fedbabu": Method(
        summary="shared body under a head that never trains; fine-tuned head at evaluation",
        source="Oh et al. 2022, arXiv:2106.06042",
        defaults={"personal": "head", "schedule": "body-only"},
        fine_tunes="personal",
        fine_tunes_every_round=True,
    ),
    "lg-fedavg": Method(
        summary="personal body, shared head",
        source="Liang et al. 2020, arXiv:2001.01523",
        defaults={"personal": "body"},
    ),
    "fedbn": Method(
        summary="everything shared but the normalization layers",
        source="Li et al. 2021, arXiv:2102.07623",
        defaults={"personal": "norm"},
    ),
    "personal-se": Method(
        summary="everything shared but the squeeze-and-excitation blocks",
        source="after Hu et al. 2018, arXiv:1709.01507",
        defaults={"personal": "se"},
        block="se",
    ),
    "adapters": Method(
        summary="shared core, small personal adapters held near doing nothing",
        source="after Houlsby et al. 2019, arXiv:1902.00751",
        defaults={"personal": "adapter", "personal_decay": 1e-3},
        strengths={"personal-decay": (1e-4, 1e-3, 1e-2)},
        block="adapter",
    ),
}
