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
    command.add_argument("--json", action="store_true", help="the figures as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and print."""
    from gacfx import api
    from gacfx.calibration.evaluate import evaluate
    from gacfx.cli import screen

    screen.quiet_transformers()
    model, tokenizer = api.load(arguments.model)
    corpus = api.read_calibration(arguments.text, model, tokenizer)
    found = evaluate(model, corpus)
    figures = {
        "nats_per_token": found.nats_per_token,
        "perplexity": found.perplexity,
        "tokens": found.tokens,
        "documents": len(corpus.documents),
        "skipped": corpus.skipped,
    }
    if arguments.json:
        print(json.dumps(figures))
    else:
        print(f"nats/token {found.nats_per_token:.4f}   perplexity {found.perplexity:.3f}")
        print(
            f"{found.tokens:,} tokens of {len(corpus.documents)} documents; "
            f"{corpus.skipped} documents under 33 tokens skipped"
        )
    return 0
