"""Where personal parameters live between rounds, runs and restarts."""
