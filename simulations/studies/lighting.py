"""The same scene under other light."""

from simulations.study import Arm, Claim, Outcome, Study


def _claims(outcome: Outcome) -> list[Claim]:
    return [
        outcome.at_least("fedbn", 0.95),
        outcome.above("fedbn", "local", 0.03),
        outcome.above("fedbn", "fedavg", 0.10),
    ]


STUDY = Study(
    name="lighting",
    question="Everybody sees the same scenes under light of their own: does personal norm help?",
    num_clients=10,
    config={"dataset": "digits", "partition": "iid", "heterogeneity": "lighting"},
    arms=[
        *(Arm(name, {"method": name}) for name in ("fedavg", "local", "fedper", "fedbn")),
        Arm("head,norm", {"method": "fedper", "personal": "head,norm"}),
    ],
    claims=_claims,
)
