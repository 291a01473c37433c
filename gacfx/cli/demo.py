"""``gacfx demo``: the whole road on the embedded model, in about a minute."""

import argparse
import json
from pathlib import Path
from textwrap import fill
from typing import Any

from gacfx.cli import options

TOKENS = "40k"
"""Of the calibration text: enough for a model of this size, in half a minute."""
PROMPT = "Return a new"
WIDTH = 80
"""Columns that generated text is wrapped to."""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = options.add_command(
        commands, "demo", "compress the embedded model twice, compare, save, reload, generate", run
    )
    command.add_argument("--ratio", default="0.2", help="share to remove (default: 0.2)")
    command.add_argument("--out", default="gacfx-demo", help="folder (default: gacfx-demo)")
    command.add_argument("--json", action="store_true", help="the summary as JSON")
    options.add_gpu(command)
    options.add_workload(command)
    command.set_defaults(seq=256)  # the positions that the model has


def run(arguments: argparse.Namespace) -> int:
    """Run the demo and print."""
    from gacfx import api
    from gacfx.calibration.running import few_threads
    from gacfx.calibration.text import usage
    from gacfx.cli import demo_folder, screen
    from gacfx.demo import MODEL
    from gacfx.report import tables
    from gacfx.report.speedup_view import speedup_view
    from gacfx.study import Study

    api.check_request("gfwsvd", arguments.ratio)
    profile, workload = options.profile_of(arguments), options.workload_of(arguments)
    demo_folder.check(Path(arguments.out))
    screen.quiet_transformers()
    model, tokenizer = api.load(MODEL)
    corpus = api.read_calibration(MODEL / "calibration.jsonl", model, tokenizer, TOKENS)
    judge = api.read_calibration(MODEL / "evaluation.jsonl", model, tokenizer, "all")
    with screen.progress() as move, few_threads(model):
        study = Study.make(model, corpus, progress=move)
        planned = {
            "upstream": study.upstream(arguments.ratio, profile=profile),
            "gacfx": study.plan(arguments.ratio, profile=profile),
        }
        summary = api.summarise(study, planned, profile, workload, judge)
    folders = {}
    for name, one in planned.items():
        made = api.Compressed(api.apply(model, one), tokenizer, one, summary)
        folders[name] = api.save(made, Path(arguments.out) / name, overwrite=True)
    screen.say_text(usage(corpus), arguments.json)
    screen.say_text(usage(judge, "evaluation"), arguments.json)
    if arguments.json:
        print(json.dumps(summary.to_dict(), indent=1))
        return 0
    out = screen.console()
    out.print(tables.plan_view(planned["gacfx"].plan, profile))
    out.print()
    out.print(tables.summary_view(summary))
    ours = summary.sides[-1].speedup
    assert ours is not None
    explained = ours.small and is_default(arguments)
    out.print()
    out.print(speedup_view(ours, hint=not explained))
    if explained:
        out.print(small_text(model.num_parameters()), end="")
    out.print(f"\nsaved {', '.join(str(f) for f in folders.values())}")
    out.print(f"what each writes after {PROMPT!r}, greedy, reloaded by plain transformers:")
    for name, folder in {"dense": MODEL, **folders}.items():
        out.print(f"\n{name}:\n{wrapped(generated(folder))}")
    return 0


def small_text(params: int) -> str:
    """Why the forecast of the demo model is no speed-up, and what it is at the shapes of 8B."""
    from gacfx.demo import REAL
    from gacfx.report.numbers import count

    return (
        f"\n{count(params)} parameters are too few to get faster: most of a step is starting "
        "kernels,\nand a pair starts two. At the shapes of Llama-3-8B, with made-up spectra:\n\n"
        f"$ gacfx plan llama-3-8b --synthetic 0.5\n{REAL.read_text(encoding='utf-8')}"
    )


def is_default(arguments: argparse.Namespace) -> bool:
    """What was kept for Llama-3-8B is for the same request."""
    asked = (arguments.gpu, arguments.ratio, arguments.execution, arguments.torch, arguments.cudnn)
    return asked == ("h200", "0.2", "eager", None, None)


def wrapped(text: str) -> str:
    """The lines of a text within the columns, indented; empty lines left out."""
    return "\n".join(
        fill(line, WIDTH, initial_indent="    ", subsequent_indent="    ")
        for line in text.splitlines()
        if line.strip()
    )


def generated(folder: Path) -> str:
    """Text that the reloaded checkpoint writes, by plain transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    ids = tokenizer(PROMPT, return_tensors="pt")
    written = model.generate(**ids, max_new_tokens=60, do_sample=False)
    return str(tokenizer.decode(written[0], skip_special_tokens=True))
