"""Passes that check the result and change nothing."""
