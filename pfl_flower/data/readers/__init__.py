"""Readers of own data: a folder, a table, a Hugging Face data set, a graph or a function."""
