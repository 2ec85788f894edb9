"""Methods compared on the same clients: cells, statistics, a recommendation and a report."""
