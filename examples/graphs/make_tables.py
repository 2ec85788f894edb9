"""Write the tables of eight made-up reading clubs: their members, and who is friends with whom.

Stands in for tables that you have. A club is a client: `tables/<club>/members.csv` has a row a
member, `tables/<club>/friends.csv` a row a friendship.
"""

from pathlib import Path

import numpy as np

CLUBS, MEMBERS, TASTES, FEATURES = 8, 120, 3, 12
TOWNS = 2
"""Clubs of one town call the same tastes by the same names: towns are communities."""


def write_club(club: int, prototypes: np.ndarray) -> None:
    """Write the two tables of a club.

    Parameters
    ----------
    club : int
        Its number.
    prototypes : ndarray
        Mean features of members of each taste, ``(TASTES, FEATURES)``.
    """
    draw = np.random.default_rng(club)
    taste = draw.integers(TASTES, size=MEMBERS)
    features = prototypes[taste] + draw.normal(size=(MEMBERS, FEATURES))
    chance = np.where(taste[:, None] == taste[None, :], 0.08, 0.01)
    left, right = np.nonzero(np.triu(draw.random((MEMBERS, MEMBERS)) < chance, k=1))
    genre = (taste + club % TOWNS) % TASTES  # each town has its own names
    known = draw.permutation(MEMBERS) < 40  # 40 members have said what they like to read
    folder = Path("tables") / str(club)
    folder.mkdir(parents=True, exist_ok=True)
    names = ",".join(f"f{number}" for number in range(FEATURES))
    rows = [
        ",".join(f"{value:.4f}" for value in row) + f",{label if there else ''}"
        for row, label, there in zip(features, genre, known, strict=True)
    ]
    (folder / "members.csv").write_text("\n".join([f"{names},genre", *rows]) + "\n")
    pairs = [f"{one},{other}" for one, other in zip(left, right, strict=True)]
    (folder / "friends.csv").write_text("\n".join(["member,friend", *pairs]) + "\n")


if __name__ == "__main__":
    means = np.random.default_rng(100).normal(0.0, 0.5, size=(TASTES, FEATURES))
    for number in range(CLUBS):
        write_club(number, means)
