"""Components of a network: its head, and layers by their type."""
