"""The pipelines that the doors run, as text. Together they are the compiler."""

from gacfx.core.search import Search

SELECT = "annotate-sites,couple-dims,select-targets"
"""What can be changed, and what hangs together."""

PLAN = "measure-curves,sweep-candidates,solve"
"""What each size is worth, which sizes there are, which to take."""

REWRITE = "annotate-sites,factorize,clean"
"""The plan put into a graph."""

ANALYSE = "annotate-sites,select-targets,predict-tiers,estimate-latency"
"""What the GPU is expected to do with a graph."""

VERIFY = "check-alignment,check-budget,check-numerics"
"""What a rewritten graph must fulfil."""

DEFAULT = ",".join((SELECT, PLAN, REWRITE, ANALYSE, VERIFY))
"""Everything in order, as ``gacfx passes`` prints it; the doors run its parts, PLAN repeatedly."""


def planning(search: Search, curves: str, align: int) -> str:
    """``PLAN`` as a search asks for it.

    Args:
        search: which sizes, which limits, who chooses.
        curves: the pass that makes the curves, with its options.
        align: multiple of the ranks before tensor parallelism and format.
    """
    window = search.window if search.candidates == "window" else 0
    # Eq. 4 of GAC-v2 holds near the compressor's own rank; the paper offers no dense weight.
    near = search.value == "paper" and window > 0
    sweep = step(
        "sweep-candidates",
        align=align,
        tp=search.tp,
        quant=search.quant,
        bounds=search.bounds,
        window=window,
        dense=False if near else None,
    )
    tie = ("tie-layers",) if search.uniform else ()
    stops = {"gap": search.gap, "time-limit": search.time_limit}
    solve = step("solve", solver=search.solver, **stops)
    return ",".join((curves, sweep, *tie, *search.limits, solve))


def step(name: str, **options: object) -> str:
    """A pass with those options that are said: neither None nor empty. 0 and False are said."""
    texts = {key: _text(found) for key, found in options.items()}
    said = " ".join(f"{key}={text}" for key, text in texts.items() if text)
    return f"{name}{{{said}}}" if said else name


def _text(option: object) -> str:
    """As :func:`gacfx.graph.gacpass.show` writes it, which needs torch; empty for None."""
    if isinstance(option, bool):
        return str(option).lower()
    if isinstance(option, tuple):
        return ";".join(map(str, option))
    return "" if option is None else str(option)
