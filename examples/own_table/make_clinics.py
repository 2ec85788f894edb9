"""Write clinics.csv: the patients of twelve made-up clinics, a row a patient.

What harms a patient is the same everywhere: a blood pressure, a glucose or a body mass index far
from normal, whether too low or too high, and age. Whom a clinic readmits is its own: how much each
of these counts differs from clinic to clinic.
"""

import numpy as np
import pandas as pd


def clinic(number: int) -> pd.DataFrame:
    """Return the patients of a clinic, 40 to 160 of them."""
    draw = np.random.default_rng(number)
    patients = int(draw.integers(40, 161))
    normal = draw.normal(size=(patients, 4))
    harm = np.column_stack([normal[:, 0], np.abs(normal[:, 1:]) - 0.7])
    counts = draw.normal(2.0, 2.0, 4)
    readmitted = harm @ counts + draw.logistic(0, 0.3, patients) > 0
    return pd.DataFrame(
        {
            "clinic": f"clinic-{number:02d}",
            "age": (60 + 12 * normal[:, 0]).round(),
            "bmi": (24 + 4 * normal[:, 1]).round(1),
            "blood_pressure": (120 + 15 * normal[:, 2]).round(),
            "glucose": (5.5 + 1.2 * normal[:, 3]).round(1),
            "readmitted": np.where(readmitted, "yes", "no"),
        }
    )


if __name__ == "__main__":
    table = pd.concat([clinic(number) for number in range(1, 13)])
    table.to_csv("clinics.csv", index=False)
    print(f"clinics.csv: {len(table)} patients of {table['clinic'].nunique()} clinics")
