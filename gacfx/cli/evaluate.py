"""``gacfx eval``: a checkpoint, dense or compressed: its loss on a text, or zero-shot scores."""

import argparse
import json
from typing import Any

from gacfx.cli import comparing, options, zeroshot


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = options.add_command(
        commands, "eval", "measure the loss of a checkpoint on a text, or zero-shot scores", run
    )
    command.add_argument("model", nargs="?", help="checkpoint folder or name")
    command.add_argument("--text", metavar="FILE", help=".jsonl or .txt text: loss and perplexity")
    command.add_argument(
        "--tasks",
        metavar="NAME,NAME",
        type=zeroshot.names,
        help="piqa, arc_easy, arc_challenge, hellaswag: zero-shot scores of lm-eval",
    )
    command.add_argument(
        "--tokens",
        metavar="N",
        type=options.tokens,
        help="use at most N tokens of the text: 500k (default: all)",
    )
    command.add_argument("--json", action="store_true", help="the figures as JSON")
    comparing.add(command)
    zeroshot.add(command)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and print.

    Raises:
        WrongUse: no model, or options of the one beside the other.
        GacError: as the parts say.
    """
    check(arguments)
    if arguments.compare is not None:
        return comparing.run(arguments)
    if arguments.tasks is not None:
        return zeroshot.run(arguments)
    return loss(arguments)


def check(arguments: argparse.Namespace) -> None:
    """Nothing when the options go together.

    Raises:
        WrongUse: they do not.
    """
    text, tasks = arguments.text is not None, arguments.tasks is not None
    if not (text or tasks):
        raise options.WrongUse("one of --text --tasks is required")
    if arguments.compare is None:
        if arguments.model is None:
            raise options.WrongUse("name a model, or several behind --compare")
        if text and tasks:
            raise options.WrongUse("--tasks: not allowed with --text, but for --compare")
    if not text and arguments.tokens is not None:
        raise options.WrongUse("--tokens: goes with --text; see --limit")
    comparing.check_windows(arguments)
    if not tasks:
        zeroshot.check_unused(arguments)


def loss(arguments: argparse.Namespace) -> int:
    """Measure the loss on a text and print it."""
    if arguments.window is not None:
        return comparing.loss(arguments)
    from gacfx.calibration.evaluate import evaluate
    from gacfx.calibration.text import usage
    from gacfx.cli import made

    model, _, corpus = made.model_and_text(
        arguments.model, arguments.text, arguments.tokens or "all"
    )
    found = evaluate(model, corpus).checked()
    figures = {
        "nats_per_token": found.nats_per_token,
        "perplexity": found.perplexity,
        "tokens": found.tokens,
        "used_tokens": corpus.tokens,
        "given_tokens": corpus.given,
        "given_is": corpus.given_is,
        "windows": len(corpus.documents),
        "skipped": corpus.skipped,
        "ends": corpus.ends,
        "text": usage(corpus, "evaluation"),
    }
    if arguments.json:
        print(json.dumps(figures))
    else:
        print(usage(corpus, "evaluation"))
        print(f"nats/token {found.nats_per_token:.4f}   perplexity {found.perplexity:.3f}")
        print(f"over {found.tokens:,} tokens, all but the first of each window")
    return 0
