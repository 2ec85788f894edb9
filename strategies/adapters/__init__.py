"""Averaging of adapters."""
