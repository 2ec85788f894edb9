"""Who gets which examples: partitions of examples and of graphs, and splits."""
