"""Prompt-aware ranks: what they are worth, what they cost, and when they are not worth it."""
