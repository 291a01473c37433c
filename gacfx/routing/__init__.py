"""Prompt-aware ranks: which pieces of a pooled weight a prompt uses."""
