"""Aggregation that knows how good each client's data are."""
