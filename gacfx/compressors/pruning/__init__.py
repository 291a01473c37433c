"""Structured pruning: which units of a structure to keep, what that costs, what is left."""
