"""Art lovers share the eye and differ in taste."""

from simulations.study import Arm, Claim, Outcome, Study


def _claims(outcome: Outcome) -> list[Claim]:
    claims = []
    for name in ("fedper", "fedrep"):
        claims += [
            outcome.at_least(name, 0.93),
            outcome.above(name, "local", 0.03),
            outcome.above(name, "fedavg", 0.60),
        ]
    return claims


STUDY = Study(
    name="taste",
    question="The same pictures, each client's own names for them: does a personal head help?",
    num_clients=10,
    config={"dataset": "digits", "partition": "iid", "heterogeneity": "taste"},
    arms=[Arm(name, {"method": name}) for name in ("fedavg", "local", "fedper", "fedrep")],
    claims=_claims,
)
