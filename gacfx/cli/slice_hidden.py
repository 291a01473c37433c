"""``gacfx slice``: a plain model of a smaller hidden size."""

import argparse
import json
from pathlib import Path
from typing import Any

from gacfx.cli import options
from gacfx.core.defaults import RATIO, READERS, ROTATIONS


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = options.add_command(
        commands, "slice", "turn the residual stream and cut it: a smaller plain model", run
    )
    command.add_argument("model", help="checkpoint folder or name, not compressed")
    command.add_argument(
        "--calibration", metavar="FILE", required=True, help=".jsonl or .txt text to learn from"
    )
    command.add_argument("--out", metavar="DIR", required=True, help="folder to write")
    command.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    command.add_argument(
        "--ratio",
        default=RATIO,
        help="share of all parameters to remove, embeddings included (default: 0.2, 20 %%)",
    )
    command.add_argument(
        "--align",
        type=options.positive,
        metavar="N",
        help="the hidden size is a multiple of N (default: what the GPU prefers)",
    )
    options.add_gpu(command)
    options.add_dtype(command)
    command.add_argument(
        "--rotation",
        choices=ROTATIONS,
        default=ROTATIONS[0],
        help="directions by what their loss costs (default), or by their length alone",
    )
    command.add_argument(
        "--readers",
        choices=READERS,
        default=READERS[0],
        help="guess what is lost from what is kept (default), or as in the paper",
    )
    command.add_argument(
        "--calibration-tokens",
        metavar="N",
        type=options.tokens,
        help="use at most N tokens of the text: 500k, or all (default: 256 windows)",
    )
    command.add_argument("--seed", type=options.whole, default=0, help="of sampled labels")
    command.add_argument(
        "--max-loss",
        type=options.above_0,
        metavar="NATS",
        help="most nats/token that the loss may rise on held-back text (default: 1)",
    )
    command.add_argument("--force", action="store_true", help="go on whatever the losses are")
    command.add_argument("--json", action="store_true", help="what was done as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Slice, save and print.

    Raises:
        PoorQuality: the loss would rise too much; no folder is written.
        GacError: as the parts say.
    """
    from gacfx.calibration.text import read_documents
    from gacfx.checkpoint.load import load_dense
    from gacfx.checkpoint.save import check_target
    from gacfx.cli import plan_files, screen
    from gacfx.core.rise import MAX_LOSS_NATS
    from gacfx.report.slicing_view import slicing_view
    from gacfx.slicing.door import save_sliced, slice_hidden

    out = Path(arguments.out).expanduser()
    check_target(out, overwrite=arguments.overwrite)
    plan_files.check_source(arguments.model, out)
    documents = read_documents(arguments.calibration)
    screen.quiet_transformers()
    model, tokenizer = load_dense(arguments.model, dtype=options.dtype_of(arguments))
    with screen.progress() as move:
        sliced = slice_hidden(
            model,
            tokenizer,
            calibration=documents,
            ratio=arguments.ratio,
            align=arguments.align,
            gpu=options.profile_of(arguments),
            rotation=arguments.rotation,
            readers=arguments.readers,
            calibration_tokens=arguments.calibration_tokens,
            seed=arguments.seed,
            max_loss=MAX_LOSS_NATS if arguments.max_loss is None else arguments.max_loss,
            force=arguments.force,
            progress=move,
        )
    folder = save_sliced(sliced, out, overwrite=arguments.overwrite)
    screen.say_text(sliced.text, arguments.json)
    if arguments.json:
        print(json.dumps(sliced.to_dict(), indent=1))
        return 0
    screen.console().print(slicing_view(sliced))
    print(f"\nwrote {folder}; it needs no gacfx")
    return 0
