"""Are moments of a few tokens with huge activations or gradients a danger, and does care help?

    python -m benchmarks.outliers [--data ../shared/data] [--models babyllama stories260K]
    python -m benchmarks.outliers --models smollm2 --smollm2 FOLDER --work FOLDER --out FILE.json

Plans of pairs by two-sided curves in steps of 8, from moments that were gathered in several ways:

    all            every token counts, moments as they are: what gacfx does if nothing is asked
    first N        the first N positions of each window left out
    ends           the first and last eighth of the longest window left out
    clip C         gradients of a token at most C mean norms of its window
    shrunk a, g    shares of the identity in the moments of inputs and gradients

``sink`` is the same model whose MLPs give a thousandfold at the first position of each window, cut
into windows of 64 so that many tokens come first. Excess loss over dense, nats per token.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import record
from benchmarks.paper.kept import Found, remembered
from benchmarks.quality import SUBJECTS, Subject, texts_of
from gacfx import api
from gacfx.calibration.counting import Counting
from gacfx.calibration.evaluate import evaluate
from gacfx.calibration.text import Corpus
from gacfx.core.search import Search
from gacfx.study import Study
from gacfx.work import model_digest

RATIOS = {"smollm2": ("0.1", "0.2"), "": ("0.1", "0.2", "0.3", "0.4")}
TOKENS = {"smollm2": 12_800, "": 40_960}
"""Of the calibration text."""
SINK, WINDOW = 1000.0, 64
FIRST, CLIP = 4, 3.0
SHRUNK = (("0.01", "0.03"), ("0.1", "0.3"))


class Sink(nn.Module):
    """A module whose output is a thousandfold at the first position."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x_BTN: Tensor) -> Tensor:
        """[B, T, N]."""
        found: Tensor = self.inner(x_BTN)
        first = torch.arange(found.shape[1], device=found.device)[None, :, None] == 0
        return torch.where(first, found * SINK, found)


@dataclass(frozen=True, slots=True)
class Way:
    """How moments are gathered and used."""

    name: str
    counting: Counting = Counting()
    method: str = "gfwsvd"


def ways(longest: int, *, few: bool) -> tuple[Way, ...]:
    """All of them, or those that a model of minutes is asked."""
    eighth = max(longest // 8, 1)
    made = (
        Way("all"),
        Way("first 1", Counting(first=1)),
        Way(f"first {FIRST}", Counting(first=FIRST)),
        Way(f"clip {CLIP:g}", Counting(clip=CLIP)),
        Way(f"first {FIRST}, clip {CLIP:g}", Counting(first=FIRST, clip=CLIP)),
        Way("ends", Counting(first=eighth, last=eighth)),
        *(
            Way(f"shrunk {a}, {g}", method=f"gfwsvd:shrink-inputs={a},shrink-gradients={g}")
            for a, g in SHRUNK
        ),
    )
    left_out = ("first 1", "ends") if few else ()
    return tuple(way for way in made if way.name not in left_out)


def rows(
    name: str, model: Any, texts: tuple[Corpus, Corpus], ratios: Sequence[str], work: Path | None
) -> Iterator[Found]:
    """Every way; moments are gathered once for all that count alike."""
    calibration, judge = texts
    longest = max(map(len, calibration.documents))
    dense = evaluate(model, judge).checked().nats_per_token
    known: dict[Counting, Study] = {}
    for way in ways(longest, few=name.startswith("smollm2")):

        def make(way: Way = way) -> Found:
            if way.counting not in known:
                known.clear()
                text = replace(calibration, counting=way.counting)
                known[way.counting] = Study.make(model, text, force=True)
            study = known[way.counting].with_method(way.method)
            return _measured(study, judge, ratios, dense)

        key = {
            "model": model_digest(model),
            "texts": [calibration.digest, judge.digest],
            "way": repr(way),
            "ratios": list(ratios),
        }
        found = make() if work is None else remembered(_file(work, name, way), key, make)
        row = {"model": name, "way": way.name, "dense_nats_per_token": dense, **found}
        excess = "  ".join(f"{row['excess_nats'][ratio]:.4f}" for ratio in ratios)
        print(f"{name:20}{way.name:20}{excess}", flush=True)
        yield row


def _file(work: Path, name: str, way: Way) -> Path:
    return work / f"{name}.{way.name.replace(' ', '_').replace(',', '')}.json"


def _measured(study: Study, judge: Corpus, ratios: Sequence[str], dense: float) -> Found:
    profile = api.load_profile("h200")
    search = Search(value="two-sided", form="pair", align=8)
    found: Found = {"promised_nats": {}, "excess_nats": {}, "uniform_excess_nats": {}}
    for ratio in ratios:
        made = study.plan(ratio, profile=profile, search=search)
        found["promised_nats"][ratio] = round(made.plan.loss_nats, 6)
        found["excess_nats"][ratio] = round(study.measure(made, judge) - dense, 6)
        uniform = study.upstream(ratio, profile=profile)
        found["uniform_excess_nats"][ratio] = round(study.measure(uniform, judge) - dense, 6)
    return found


def planted(model: Any) -> Any:
    """The model with its sinks, in place."""
    for layer in model.model.layers:
        layer.mlp.act_fn = Sink(layer.mlp.act_fn)
    return model


def cut(text: Corpus) -> Corpus:
    """Its windows in pieces of one length."""
    pieces = (piece for ids_T in text.documents for piece in ids_T.split(WINDOW))
    return Corpus(tuple(piece for piece in pieces if len(piece) == WINDOW))


def run(subject: Subject, data: Path, folder: Path, work: Path | None) -> list[Found]:
    """All ways of one model, and of the same with planted sinks where that is quick."""
    model, tokenizer = api.load(folder, dtype=torch.float32)
    found = texts_of(subject, data, model, tokenizer)
    tokens = TOKENS.get(subject.name, TOKENS[""])
    ratios = RATIOS.get(subject.name, RATIOS[""])
    texts = found.calibration.sample(tokens), found.judges[0]
    made = list(rows(subject.name, model, texts, ratios, work))
    if subject.name != "smollm2":
        short = cut(texts[0]), cut(texts[1])
        made += rows(f"{subject.name}, sink", planted(model), short, ratios, work)
    return made


def main(given: Sequence[str] | None = None) -> int:
    """0: nothing here is a goal."""
    default = Path(os.environ.get("GACFX_DATA", Path(__file__).parents[1] / "../shared/data"))
    parser = argparse.ArgumentParser(description="Ways to gather moments, with and without sinks.")
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M, for that model")
    names = [subject.name for subject in SUBJECTS]
    parser.add_argument("--models", nargs="+", choices=names, default=names[:2])
    parser.add_argument("--work", type=Path, help="folder of finished rows: resumes")
    parser.add_argument("--out", type=Path, help="of the results (default: results/outliers.json)")
    asked = parser.parse_args(given)
    torch.set_num_threads(1)
    results: list[Found] = []
    for subject in SUBJECTS:
        if subject.name in asked.models:
            folder = asked.data / subject.folder if subject.folder else asked.smollm2
            if folder is None:
                parser.error(f"--models {subject.name}: name its folder with --smollm2")
            results += run(subject, asked.data, folder, asked.work)
    print(record.write("outliers", {"rows": results}, asked.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
