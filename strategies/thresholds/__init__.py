"""Decision thresholds: search for the best one, and partial pooling over the fleet."""
