"""Passes that write notes on nodes and change nothing."""
