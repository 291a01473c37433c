"""``gacfx eval``: loss of a checkpoint, dense or compressed, on a text."""

import argparse
import json
from typing import Any

from gacfx.cli import options


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = options.add_command(
        commands, "eval", "measure the loss of a checkpoint on a text", run
    )
    command.add_argument("model", help="checkpoint folder or name")
    command.add_argument("--text", metavar="FILE", required=True, help=".jsonl or .txt text")
    command.add_argument(
        "--tokens",
        metavar="N",
        type=options.tokens,
        default="all",
        help="use at most N tokens of it: 500k (default: all)",
    )
    command.add_argument("--json", action="store_true", help="the figures as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and print."""
    from gacfx.calibration.evaluate import evaluate
    from gacfx.calibration.text import usage
    from gacfx.cli import made

    model, _, corpus = made.model_and_text(arguments.model, arguments.text, arguments.tokens)
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
