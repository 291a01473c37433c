"""``gacfx eval --compare A B C``: several checkpoints in one table."""

import argparse
import json
from typing import TYPE_CHECKING

from gacfx.cli import options

if TYPE_CHECKING:
    import torch

    from gacfx.comparison import Questions, Text


def add(command: argparse.ArgumentParser) -> None:
    """The options of comparisons, and of windows that overlap."""
    command.add_argument(
        "--compare",
        metavar="DIR",
        nargs="+",
        help="further checkpoints: one table of all, with changes against the dense one",
    )
    group = command.add_argument_group("with --text")
    group.add_argument(
        "--window",
        metavar="N",
        type=options.positive,
        help="tokens of a window (default: the model's positions, at most 2048)",
    )
    group.add_argument(
        "--stride",
        metavar="N",
        type=options.positive,
        help="tokens to the next window: each token is predicted once, with at least window - "
        "stride tokens before it (default: the window, so that none overlap)",
    )


def check_windows(arguments: argparse.Namespace) -> None:
    """Nothing when ``--window`` and ``--stride`` go with each other and with a text.

    Raises:
        WrongUse: they do not.
    """
    from gacfx.calibration import sliding
    from gacfx.errors import CalibrationError

    window, stride = arguments.window, arguments.stride
    if arguments.text is None:
        if window is not None or stride is not None:
            raise options.WrongUse("--window, --stride: go with --text")
        return
    if window is None:
        if stride is not None:
            raise options.WrongUse("--stride: goes with --window; name both")
        return
    try:
        sliding.check_windows(window, stride or window, None)
    except CalibrationError as error:
        raise options.WrongUse(f"--{error}") from error


def run(arguments: argparse.Namespace) -> int:
    """Compare and print; 1 where the loss of a model says nothing of it."""
    from gacfx.cli import screen
    from gacfx.comparison import compare
    from gacfx.report.comparison_view import comparison_view

    questions = questions_of(arguments)
    device = device_of(arguments)
    screen.quiet_transformers()
    with screen.progress() as move:
        found = compare(
            [*filter(None, [arguments.model]), *arguments.compare],
            against=arguments.against,
            text=None if arguments.text is None else text_of(arguments),
            questions=questions,
            device=device,
            progress=move,
        )
    if arguments.json:
        print(json.dumps(found.to_dict(), allow_nan=False))
    else:
        screen.console().print(comparison_view(found))
    return 1 if found.problems else 0


def loss(arguments: argparse.Namespace) -> int:
    """Measure the loss of one model on windows that may overlap, and print it."""
    from gacfx.calibration.text import usage
    from gacfx.cli import screen
    from gacfx.comparison import measure_text
    from gacfx.comparison.statistics import units_of
    from gacfx.errors import CalibrationError
    from gacfx.report.comparison_view import predicted

    screen.quiet_transformers()
    found, slides = measure_text(arguments.model, text_of(arguments))
    if found.problem:
        raise CalibrationError(found.problem)
    units, used = units_of(slides), slides.text
    said = usage(used, "evaluation", found.windows)
    over = f"{units.count:,} {units.name}"
    if arguments.json:
        counts = {"used_tokens": used.tokens, "given_tokens": used.given, "given_is": used.given_is}
        cut = {"window": slides.window, "stride": slides.stride, "skipped": slides.corpus.skipped}
        more = {"ends": slides.corpus.ends, "errors_over": over, "text": said}
        print(json.dumps({**found.to_dict(), **counts, **cut, **more}, allow_nan=False))
        return 0
    print(said)
    error = "" if found.loss.stderr is None else f" ± {found.loss.stderr:.4f} (over {over})"
    print(f"nats/token {found.loss.mean:.4f}{error}   perplexity {found.perplexity:.3f}")
    print(f"over {found.tokens:,} tokens, {predicted(slides.window, slides.stride)}")
    return 0


def text_of(arguments: argparse.Namespace) -> "Text":
    """The text that the options name, and how it is cut."""
    from gacfx.comparison import Text

    return Text(arguments.text, arguments.window, arguments.stride, arguments.tokens)


def questions_of(arguments: argparse.Namespace) -> "Questions | None":
    """The tasks that the options name; None without any."""
    from gacfx.comparison import Questions
    from gacfx.zeroshot import read_tasks
    from gacfx.zeroshot.harness import BATCH

    if arguments.tasks is None:
        return None
    tasks = read_tasks(arguments.tasks, arguments.task_data)
    return Questions(tasks, arguments.limit, arguments.batch or BATCH, arguments.task_data)


def device_of(arguments: argparse.Namespace) -> "torch.device | None":
    """Where models compute; None for the CPU, where they are read."""
    from gacfx.bench.sides import device_named

    device = device_named(arguments.device)
    return None if device.type == "cpu" else device
