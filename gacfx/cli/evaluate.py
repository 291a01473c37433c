"""``gacfx eval``: a checkpoint, dense or compressed: its loss on a text, or zero-shot scores."""

import argparse
import json
from typing import Any

from gacfx.cli import options, zeroshot


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = options.add_command(
        commands, "eval", "measure the loss of a checkpoint on a text, or zero-shot scores", run
    )
    command.add_argument("model", help="checkpoint folder or name")
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--text", metavar="FILE", help=".jsonl or .txt text: loss and perplexity")
    what.add_argument(
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
    zeroshot.add(command)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and print.

    Raises:
        WrongUse: options of the one beside the other.
        GacError: as the parts say.
    """
    if arguments.tasks is not None:
        if arguments.tokens is not None:
            raise options.WrongUse("--tokens: goes with --text; see --limit")
        return zeroshot.run(arguments)
    zeroshot.check_unused(arguments)
    return loss(arguments)


def loss(arguments: argparse.Namespace) -> int:
    """Measure the loss on a text and print it."""
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
