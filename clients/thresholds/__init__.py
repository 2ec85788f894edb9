"""Personal decision thresholds: the rules, and the client that finds its own."""
