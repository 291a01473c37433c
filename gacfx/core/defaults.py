"""What is meant where nothing is said; one place for the doors and the command line."""

METHOD = "gfwsvd"
"""Compressor of the factors."""
RATIO = "0.2"
"""Share of the targeted weights to remove."""
GPU = "h200"
"""Profile whose alignment the sizes follow."""
SEQ = 1024
"""Tokens of a sequence."""
