"""Hierarchical Bayes: a Gaussian prior that all clients share, estimated from the clients."""
