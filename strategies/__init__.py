"""Server side: what is averaged, for whom, and how. Flower ``Strategy`` classes and their maths.

Use one in any Flower project: ``PartialAveraging(...).start(grid, initial_arrays, num_rounds)``.
"""

from strategies.averaging import PartialAveraging
from strategies.replies import ClientReport, Reply, mean_metrics

__all__ = ["ClientReport", "PartialAveraging", "Reply", "mean_metrics"]
