"""Clusters of clients, one model each: who is in which cluster, and averaging within clusters."""
