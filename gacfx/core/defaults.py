"""What is meant where nothing is said; one place for the doors and the command line."""

METHOD = "gfwsvd"
"""Compressor of the factors."""
RATIO = "0.2"
"""Share of the targeted weights to remove."""
GPU = "h200"
"""Profile whose alignment the sizes follow."""
SEQ = 1024
"""Tokens of a sequence."""
MODEL_DTYPES = ("fp32", "bf16", "fp16")
"""What the weights of a model can be asked for in."""
