"""What a run leaves behind: files of every client and round, and a few words."""

from pfl_flower.results.files import describe, results_folder, summarize, write
from pfl_flower.results.spread import spread, worst_tenth

__all__ = ["describe", "results_folder", "spread", "summarize", "worst_tenth", "write"]
