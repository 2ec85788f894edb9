"""Train a graph neural network on all clubs, and say what each club gets."""

from pathlib import Path

from pfl_flower.engines import simulate
from pfl_flower.results import describe, write

if __name__ == "__main__":
    runs = simulate(
        {
            "dataset": "clubs:load",
            "model": "clubs:ReadingNet",
            "method": "community-adapters",
            "baselines": "fedavg-gnn,local-gnn",
            "optimizer": "adam",
            "learning-rate": 0.01,
            "num-server-rounds": 10,
            "local-epochs": 3,
        },
        num_clients=8,
    )
    write(Path("results"), runs)
    print("\n".join(describe(runs)))
