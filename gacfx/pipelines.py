"""The pipelines that the doors run, as text. Together they are the compiler."""

SELECT = "annotate-sites,couple-dims,select-targets"
"""What can be changed, and what hangs together."""

KEYS_AND_VALUES = "only-keys-and-values"
"""The same for methods that treat nothing else."""

PLAN = "measure-curves,sweep-candidates,solve"
"""What each size is worth, which sizes there are, which to take."""

PRUNE = "measure-curves,measure-structures,sweep-candidates{prune=both},solve"
"""The same, with sizes of MLPs and attentions beside the ranks, and at once."""

REWRITE = "annotate-sites,prune,annotate-sites,factorize,clean"
"""The plan put into a graph."""

ANALYSE = "annotate-sites,select-targets,predict-tiers,estimate-latency"
"""What the GPU is expected to do with a graph."""

VERIFY = "check-alignment,check-budget,check-numerics"
"""What a rewritten graph must fulfil."""

DEFAULT = ",".join((SELECT, PLAN, REWRITE, ANALYSE, VERIFY))
"""Everything in order, as ``gacfx passes`` prints it; the doors run its parts, PLAN repeatedly."""
