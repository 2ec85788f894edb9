"""Readers of a user's own data: folder, table, Hugging Face data set, graph or function."""
