"""The data sets: generated ones, and readers of public ones."""
