"""A Flower project that takes a strategy and a client from pfl-flower."""
