"""Clients with more than one adapter."""
