"""``gacfx route train | eval | bench``: prompts pick which ranks of each weight run."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gacfx.cli import options
from gacfx.errors import UnsupportedModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gacfx.calibration.text import Corpus


SEQ = 128
"""Tokens of a step that is timed, if nothing is asked for."""


def add(commands: Any) -> None:
    """Add the commands to the parser."""
    command = options.add_command(
        commands, "route", "let prompts pick the ranks that run: train, eval, bench", None
    )
    parts = command.add_subparsers(dest="route", required=True, metavar="PART")
    _add_train(parts)
    _add_eval(parts)
    _add_bench(parts)


def _add_train(parts: Any) -> None:
    command = options.add_command(
        parts, "train", "pools of ranks, and the router that picks among them", train
    )
    command.add_argument("model", help="checkpoint folder or name")
    command.add_argument(
        "--text",
        action="append",
        default=[],
        metavar="KIND=FILE",
        help="text of a kind, .jsonl or .txt; two or more where kinds are told apart",
    )
    command.add_argument("--calibration", metavar="FILE", help="one text, whose kinds are found")
    command.add_argument(
        "--clusters", type=options.positive, metavar="N", help="kinds to find in it"
    )
    command.add_argument(
        "--ratio", default="0.4", help="share of the targeted weights that does not run (0.4)"
    )
    command.add_argument(
        "--stored",
        default="1.25",
        metavar="S",
        help="most that is stored, as a share of the targeted weights, or all (default: 1.25)",
    )
    command.add_argument(
        "--block", type=options.positive, metavar="N", help="ranks picked together (default: GPU's)"
    )
    command.add_argument(
        "--picks",
        choices=("own", "static", "domain", "linear"),
        default="own",
        help="own ranks of each kind of text (default); or trained masks over one basis: one for "
        "all, one for each kind, or PARSE's linear router",
    )
    command.add_argument(
        "--steps", type=options.positive, metavar="N", help="of the training of masks (60)"
    )
    command.add_argument("--method", default="gfwsvd", help="one of gacfx methods (gfwsvd)")
    command.add_argument("--skip", action="append", default=[], metavar="PATTERN")
    command.add_argument("--seed", type=options.whole, default=0, metavar="N")
    command.add_argument(
        "--calibration-tokens", type=options.tokens, metavar="N", help="of each text, at most"
    )
    _add_prompt(command)
    options.add_gpu(command)
    options.add_dtype(command)
    command.add_argument("--work", metavar="DIR", help="folder for statistics, to go on from")
    command.add_argument("--out", metavar="DIR", required=True, help="folder to write")
    command.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    command.add_argument("--json", action="store_true", help="the report as JSON")


def _add_eval(parts: Any) -> None:
    command = options.add_command(
        parts, "eval", "losses behind prompts, with picks and with the static prefix", evaluate
    )
    command.add_argument("model", metavar="DIR", help="folder of gacfx route train")
    command.add_argument("--against", metavar="DENSE", help="the model that it was made of")
    command.add_argument(
        "--text", action="append", default=[], metavar="NAME=FILE", help="text, .jsonl or .txt"
    )
    command.add_argument(
        "--tokens", type=options.tokens, default="16k", metavar="N", help="of each text (16k)"
    )
    _add_prompt(command)
    command.add_argument("--json", action="store_true", help="all rows as JSON")


def _add_bench(parts: Any) -> None:
    command = options.add_command(
        parts, "bench", "what picking costs: prefill and decode on this machine", bench
    )
    command.add_argument("model", metavar="DIR", help="folder of gacfx route train")
    command.add_argument("--against", metavar="DENSE", help="the model that it was made of")
    command.add_argument("--batch", type=options.positive, default=1, help="sequences (default: 1)")
    command.add_argument(
        "--seq",
        type=options.positive,
        help=f"tokens (default: {SEQ}, or as many as the model has positions)",
    )
    command.add_argument("--mode", choices=("prefill", "decode", "both"), default="both")
    command.add_argument("--device", help="cpu or cuda (default: cuda, if there is one)")
    command.add_argument(
        "--runs", type=options.positive, default=24, metavar="N", help="rounds (24)"
    )
    command.add_argument("--threads", type=options.positive, metavar="N", help="of the CPU")
    command.add_argument("--json", action="store_true", help="everything as JSON")


def _add_prompt(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--prompt-tokens",
        type=options.positive,
        default=96,
        metavar="N",
        help="of a window, by which its ranks are picked (default: 96)",
    )


def train(arguments: argparse.Namespace) -> int:
    """Train, write the folder, and print."""
    from gacfx.calibration.text import read_documents
    from gacfx.checkpoint.load import load_dense
    from gacfx.checkpoint.save import check_target
    from gacfx.cli import plan_files, screen
    from gacfx.report.route_view import trained_view
    from gacfx.routing import train as door
    from gacfx.routing.one_basis.choose_masks import STEPS

    texts = named_texts(arguments.text)
    check_texts(arguments, texts)
    documents = {name: read_documents(path) for name, path in texts.items()}
    profile = options.profile_of(arguments)
    out = Path(arguments.out).expanduser()
    check_target(out, overwrite=arguments.overwrite)
    plan_files.check_source(arguments.model, out)
    screen.quiet_transformers()
    model, tokenizer = load_dense(arguments.model, dtype=options.dtype_of(arguments))
    with screen.progress() as move:
        made = door.train(
            model,
            tokenizer,
            texts=documents or arguments.calibration,
            clusters=arguments.clusters,
            removed=arguments.ratio,
            stored=None if arguments.stored == "all" else arguments.stored,
            block=arguments.block,
            gpu=profile,
            method=arguments.method,
            skip=tuple(arguments.skip),
            seed=arguments.seed,
            calibration_tokens=arguments.calibration_tokens,
            prompt_tokens=arguments.prompt_tokens,
            picks=arguments.picks,
            steps=arguments.steps or STEPS,
            progress=move,
            work=arguments.work,
        )
    folder = door.save(made, out, overwrite=arguments.overwrite)
    if arguments.json:
        print(json.dumps(made.report, indent=1))
        return 0
    screen.console().print(trained_view(made.report))
    print(f"\nwrote {folder}; load it with plain transformers after: import gacfx")
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    from gacfx.bench.sides import check_alike
    from gacfx.calibration.text import read_documents
    from gacfx.checkpoint.load import load_dense
    from gacfx.cli import screen
    from gacfx.modules.routing_hooks import router_of
    from gacfx.report.route_view import picks_view
    from gacfx.routing.evaluate import NO_ROUTER, evaluate_picks

    texts = named_texts(arguments.text)
    if not texts:
        raise options.WrongUse("give --text NAME=FILE (.jsonl or .txt)")
    documents = {name: read_documents(path) for name, path in texts.items()}
    screen.quiet_transformers()
    model, tokenizer = load_dense(arguments.model)
    if router_of(model) is None:
        raise UnsupportedModel(f"{arguments.model}: {NO_ROUTER}")
    if tokenizer is None:
        raise UnsupportedModel(f"{arguments.model}: has no tokenizer to read text with")
    corpora = {
        name: _corpus(name, found, model, tokenizer, arguments) for name, found in documents.items()
    }
    dense = load_dense(arguments.against, dtype=model.dtype)[0] if arguments.against else None
    if dense is not None:
        check_alike([model, dense])
    with screen.progress() as move:
        rows = evaluate_picks(
            model,
            corpora,
            dense=dense,
            prompt_tokens=arguments.prompt_tokens,
            kinds=kinds_in(arguments.model),
            progress=move,
        )
    if arguments.json:
        print(json.dumps([row.to_dict() for row in rows], indent=1))
    else:
        screen.console().print(picks_view(rows, arguments.prompt_tokens))
    return 0


def bench(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    import torch

    from gacfx.bench import read_models
    from gacfx.bench.run import check_threads, describe
    from gacfx.bench.setting import MODES, Setting
    from gacfx.calibration.text import max_positions
    from gacfx.cli import screen
    from gacfx.hardware.measure.interleave import Effort
    from gacfx.report.bench_view import machine_name
    from gacfx.report.route_view import cost_view
    from gacfx.routing.timing import time_picks

    check_threads(arguments.threads)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    screen.quiet_transformers()
    sources = [arguments.model, *filter(None, [arguments.against])]
    models = read_models(sources, device=arguments.device, dtype=None)
    positions = max_positions(models[0], most=SEQ + 1)
    setting = Setting(
        batches=(arguments.batch,),
        seq=arguments.seq or positions - 1,
        modes=MODES if arguments.mode == "both" else (arguments.mode,),
    )
    works = setting.workloads(models)
    cells = time_picks(*models, works=works, effort=Effort(arguments.runs, 20.0))
    machine = describe(next(models[0].parameters()).device)
    if arguments.json:
        print(json.dumps([cell.to_dict() for cell in cells], indent=1))
    else:
        screen.console().print(cost_view(cells, machine_name(machine)))
    return 0


def check_texts(arguments: argparse.Namespace, texts: dict[str, str]) -> None:
    """Nothing when there are several kinds of text, or one text with a number of kinds.

    Raises:
        WrongUse: says what to give.
    """
    clusters = arguments.clusters
    one = arguments.picks in ("static", "linear")
    if arguments.steps and arguments.picks == "own":
        raise options.WrongUse("--steps: of trained masks; give --picks static, domain or linear")
    if bool(texts) == bool(arguments.calibration):
        several = "--text KIND=FILE twice or more, or --calibration with --clusters"
        raise options.WrongUse(
            "give --text KIND=FILE, or --calibration" if one else f"give {several}"
        )
    if texts and clusters is not None:
        raise options.WrongUse("--clusters: goes with --calibration; --text says the kinds itself")
    if len(texts) == 1 and not one:
        raise options.WrongUse("one kind of text leaves nothing to choose; give --text once more")
    if arguments.calibration and (clusters or 0) < 2 and not (one and clusters is None):
        raise options.WrongUse("give --clusters N, the kinds to find in --calibration: 2 or more")


def named_texts(given: list[str]) -> dict[str, str]:
    """Name -> file, of ``NAME=FILE``.

    Raises:
        WrongUse: no ``=``, an empty name, or a name twice.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise options.WrongUse(f"--text {text}: write NAME=FILE, as code=code.jsonl")
        if name in found:
            raise options.WrongUse(f"--text {text}: {name} is given twice")
        found[name] = path
    return found


def kinds_in(folder: str) -> list[str]:
    """Names of the kinds of text that a checkpoint was made of; empty where it does not say."""
    from gacfx.checkpoint.save import REPORT_FILE
    from gacfx.core.files.reading import read_table

    path = Path(folder) / REPORT_FILE
    said = read_table(path).get("routing") if path.is_file() else None
    kinds = said.get("kinds") if isinstance(said, dict) else None
    return [str(each) for each in kinds] if isinstance(kinds, list) else []


def _corpus(
    name: str, documents: "Sequence[str]", model: Any, tokenizer: Any, arguments: argparse.Namespace
) -> "Corpus":
    """Windows of twice a prompt: as much follows as was seen."""
    from gacfx.calibration.text import MIN_TOKENS, max_positions, token_limit, tokenize
    from gacfx.errors import CalibrationError

    window = min(max(2 * arguments.prompt_tokens, MIN_TOKENS), max_positions(model))
    try:
        return tokenize(documents, tokenizer, window, token_limit(arguments.tokens, window))
    except CalibrationError as error:
        error.add_note(f"this is the text of {name}")
        raise
