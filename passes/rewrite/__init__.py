"""Passes that put a plan into the graph."""
