"""Personal state between rounds, runs and restarts, and files of whole models."""
