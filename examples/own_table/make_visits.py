"""Write visits.csv: made-up visits to six hospitals, several a patient, as such tables come.

It has an id of each visit, the number and the surname of each patient, a date, two columns of words
and, in five of a hundred cells, no value. A patient has the same outcome at every visit.
"""

import numpy as np
import pandas as pd

NAMES = ("Abara", "Bianchi", "Castro", "Dubois", "Eriksen", "Farouk", "Garcia", "Haas", "Ito")
WARDS = ("surgery", "medicine", "eyes")


def hospital(number: int) -> pd.DataFrame:
    """Return the visits to a hospital: 40 patients with one to five each."""
    draw = np.random.default_rng(number)
    patient = np.repeat(np.arange(40), draw.integers(1, 6, 40))
    count = len(patient)
    age, stays = draw.normal(60, 12, 40).round(), draw.integers(0, 2, 40)
    chance = 1 / (1 + np.exp(-(0.08 * (age - 60) + (1 + number % 3) * (stays - 0.5))))
    ill = draw.random(40) < chance
    visits = pd.DataFrame(
        {
            "hospital": f"hospital-{number}",
            "visit": np.arange(count) + 10_000 * number,
            "patient": patient + 100 * number,
            "surname": [f"{NAMES[p % len(NAMES)]}-{number}{p:02d}" for p in patient],
            "seen": pd.Timestamp("2025-01-01") + pd.to_timedelta(draw.integers(0, 500, count), "D"),
            "ward": np.array(WARDS)[draw.integers(0, len(WARDS), count)],
            "kind": np.where(stays[patient] == 1, "stay", "day"),
            "age": age[patient],
            "pulse": (70 + 10 * draw.normal(size=count)).round(),
            "readmitted": np.where(ill[patient], "yes", "no"),
        }
    )
    for column in ("seen", "ward", "kind", "age", "pulse"):
        visits.loc[draw.random(count) < 0.05, column] = None
    return visits


if __name__ == "__main__":
    table = pd.concat([hospital(number) for number in range(1, 7)])
    table.to_csv("visits.csv", index=False)
    patients = table["patient"].nunique()
    print(f"visits.csv: {len(table)} visits of {patients} patients to 6 hospitals")
