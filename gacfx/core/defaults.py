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
PROXIES = ("magnitude", "activation", "fisher", "gradient")
"""Importance of a weight, as Table 1 of GAC-v2 names it."""
PREVALENCE_RATIOS = ("0.1", "0.2", "0.3", "0.5")
"""Shares to remove for which ranks are counted: those of GAC-v1."""
ROTATIONS = ("two-sided", "pca")
"""How the directions of a residual stream are chosen that stay; the first is the default."""
READERS = ("refitted", "rotated")
"""How layers read what is left of a residual stream; the first is the default."""
