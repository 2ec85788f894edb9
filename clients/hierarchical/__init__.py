"""Clients whose parameters have a Gaussian prior that all clients share."""
