"""Stub."""

from strategies.grouping import GroupAveraging


class AdapterCommunities(GroupAveraging):
    """Stub."""

    finds_groups = True
