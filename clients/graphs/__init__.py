"""Clients whose examples are nodes, or pairs of nodes, of a graph of their own."""
