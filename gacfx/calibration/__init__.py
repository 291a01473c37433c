"""Calibration: text -> second moments of every targeted weight, and losses of models."""
