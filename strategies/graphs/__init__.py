"""Methods for graphs: who is in a community with whom, found from the directions of updates."""
