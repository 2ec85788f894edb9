"""Clients whose inputs are measured with error or partly missing."""
