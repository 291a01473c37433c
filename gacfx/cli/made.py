"""The plan that the options ask for, and the curves that it was made of."""

import argparse
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from gacfx.cli import options, own_sizes
from gacfx.errors import CheckpointError, InfeasibleBudget

if TYPE_CHECKING:
    import torch
    from torch.fx import GraphModule

    from gacfx.calibration.text import Corpus
    from gacfx.core.curve_file import Curves
    from gacfx.core.goal import Goal
    from gacfx.core.planned import Planned
    from gacfx.speedup import Speedup
    from gacfx.work import Work

P = TypeVar("P")


class Made(NamedTuple):
    """A plan with its factors, if there are any."""

    planned: "Planned"
    curves: "Callable[[], Curves]"
    """What it was made of; only some commands want it."""
    text: str = ""
    """How much calibration text was used; empty when there was none."""
    graph: "GraphModule | None" = None
    """The whole dense model; curves alone do not know it."""


def plan_first(arguments: argparse.Namespace, plan: "Callable[[Goal], P]") -> P:
    """The plan for the budget that the options name.

    A sweep is of all budgets: the default one need not have a plan, for example under a limit, and
    gives way to the dense weights' own.
    """
    goal = options.goal_of(arguments)
    try:
        return plan(goal)
    except InfeasibleBudget:
        if not getattr(arguments, "sweep", None) or options.has_goal(arguments):
            raise
        return plan(replace(goal, ratio="0"))


def make(arguments: argparse.Namespace) -> Made:
    """The plan, from saved curves, made-up ones, or a model and its text.

    Raises:
        WrongUse: options that do not go together, or nothing to plan from.
        GacError: as the parts say.
    """
    check(arguments)
    if arguments.curves:
        from gacfx.core.curve_file import load_curves

        return from_curves(arguments, load_curves(arguments.curves))
    if arguments.synthetic is not None:
        graph, curves = made_up(arguments)
        return from_curves(arguments, curves)._replace(graph=graph)
    return from_model(arguments)


def from_model(arguments: argparse.Namespace, *, tried: bool = False) -> Made:
    """The plan for a model that is read and calibrated.

    With ``tried`` as ``gacfx compress`` makes it: a model that would not come back from a folder is
    refused first, and the plan is tried on held-back text.
    """
    from gacfx.cli import jobs
    from gacfx.core.paging import lean, pages_of
    from gacfx.core.work_folder import check_work

    options.request_of(arguments)  # refuses what cannot be asked for, before the model is read
    folder = getattr(arguments, "work", None)
    if folder:
        check_work(Path(folder).expanduser())
    for name in ("disk", "device"):
        if not folder and getattr(arguments, name, None) is not None:
            raise options.WrongUse(f"--{name} goes with the folder of --work; name one")
    pages = lean(pages_of(arguments.model)) if folder else nullcontext()
    with pages, jobs.working(arguments, folder or None) as work:
        return _calibrated(arguments, work, tried=tried)


def _calibrated(arguments: argparse.Namespace, work: "Work", *, tried: bool) -> Made:
    from gacfx import api
    from gacfx.calibration.text import usage
    from gacfx.cli import screen

    request = options.request_of(arguments)
    model, tokenizer, corpus = calibration_text(arguments)
    if tried:
        api.check_saves(model)
    with (
        screen.progress() as move,
        closing(api.study_of(model, tokenizer, corpus, request, move, work)) as study,
    ):
        planned = plan_first(
            arguments,
            lambda goal: study.sized(
                request.sizes, goal, profile=request.profile, search=request.search, tried=tried
            ),
        )
    return Made(planned, lambda: study.curves_of(planned.plan), usage(corpus), study.graph)


def curves_in(work: str) -> str:
    """The file of the curves of the last plan in a work folder.

    Raises:
        CheckpointError: none was made there.
    """
    from gacfx.work import PLANNED

    path = Path(work).expanduser() / PLANNED
    if not path.is_file():
        raise CheckpointError(
            f"{work}: no plan was made there yet; name the model and --calibration, too"
        )
    return str(path)


def model_and_text(
    model: str, path: str, limit: str | None, dtype: "torch.dtype | None" = None
) -> "tuple[Any, Any, Corpus]":
    """(model, tokenizer, text), the file first: a bad one is refused before the model is read."""
    from gacfx import api
    from gacfx.calibration.text import read_documents
    from gacfx.cli import screen

    documents = read_documents(path)
    screen.quiet_transformers()
    loaded, tokenizer = api.load(model, dtype=dtype)
    return loaded, tokenizer, api.read_calibration(documents, loaded, tokenizer, limit)


def calibration_text(arguments: argparse.Namespace) -> "tuple[Any, Any, Corpus]":
    """(model, tokenizer, text) that ``plan`` and ``compress`` name."""
    model, tokenizer, corpus = model_and_text(
        arguments.model,
        arguments.calibration,
        arguments.calibration_tokens,
        options.dtype_of(arguments),
    )
    if arguments.count is not None:
        corpus = replace(corpus, counting=arguments.count)
    return model, tokenizer, corpus


def from_curves(arguments: argparse.Namespace, curves: "Curves") -> Made:
    """The plan without a model; it has no factors."""
    from gacfx.core.planned import Planned
    from gacfx.replan import plan_from_curves

    profile, search = options.profile_of(arguments), options.search_of(arguments)
    plan = plan_first(
        arguments, lambda goal: plan_from_curves(curves, goal=goal, gpu=profile, search=search)
    )
    return Made(Planned(plan, {}), lambda: curves)


def speedup(arguments: argparse.Namespace, made: Made) -> "Speedup":
    """How much faster the plan makes the model, or its targets where nothing else is known."""
    from gacfx import speedup as door

    profile, plan = options.profile_of(arguments), made.planned.plan
    if made.graph is None:
        return door.curves_speedup(made.curves(), plan, gpu=profile, seq=arguments.seq)
    return door.graph_speedup(
        made.graph, plan, gpu=profile, seq=arguments.seq, execution=arguments.execution
    )


def made_up(arguments: argparse.Namespace) -> "tuple[GraphModule, Curves]":
    """The graph and the curves of a configuration alone."""
    from gacfx.cli import screen
    from gacfx.replan import synthetic_graph
    from gacfx.suitable import check_tp
    from gacfx.tracing.skeleton import read_config

    search = options.search_of(arguments)
    value = search.value
    if value not in ("auto", "paper"):
        raise options.WrongUse("--synthetic has no losses to measure; --value is auto or paper")
    screen.quiet_transformers()
    check_tp(search.tp, read_config(arguments.model))
    return synthetic_graph(
        arguments.model,
        skip=tuple(arguments.skip),
        decay=arguments.synthetic,
        seed=arguments.seed or 0,
        value="paper" if value == "paper" else "",
        seq=arguments.seq,
        dtype=arguments.dtype,
    )


def check(arguments: argparse.Namespace) -> None:
    """Refuse before any work what cannot be planned from.

    Raises:
        WrongUse: options that do not go together, or nothing to plan from.
    """
    if problem := own_sizes.problem(arguments):
        raise options.WrongUse(problem)
    if arguments.curves:
        needless = {
            "the model": arguments.model,
            "--calibration": arguments.calibration,
            "--calibration-tokens": arguments.calibration_tokens,
            "--count": arguments.count,
            "--method": arguments.method,
            "--seed": arguments.seed is not None,
            "--dtype": arguments.dtype,
            "--synthetic": arguments.synthetic is not None,
            "--skip": arguments.skip,
            "--save-curves": arguments.save_curves,
            "--work": getattr(arguments, "work", None),
            "--jobs": getattr(arguments, "jobs", None),
        }
        if said := [name for name, given in needless.items() if given]:
            raise options.WrongUse(f"--curves plans without the model; leave out {', '.join(said)}")
        if arguments.out:
            raise options.WrongUse("--curves has no factors to write to --out; see --json")
        return
    if arguments.model is None:
        raise options.WrongUse("name a model, or give --curves FILE to plan without one")
    if arguments.synthetic is None and arguments.calibration is None:
        raise options.WrongUse("give --calibration FILE (.jsonl or .txt), or --synthetic DECAY")
    if arguments.synthetic is None:
        return
    if arguments.out or arguments.calibration or arguments.calibration_tokens or arguments.count:
        raise options.WrongUse("--synthetic has no factors to write and reads no text; see --json")
    if getattr(arguments, "work", None):
        raise options.WrongUse("--synthetic computes nothing to keep; leave out --work")
    if getattr(arguments, "jobs", None):
        raise options.WrongUse("--synthetic decomposes nothing; leave out --jobs")
    if arguments.prune not in (None, "none"):
        raise options.WrongUse("--synthetic makes up no losses of structures; leave out --prune")
    if arguments.method:
        raise options.WrongUse("--synthetic makes losses up by no method; leave out --method")
