"""Passes that turn notes and statistics into a plan."""
