"""The models of these benchmarks, calibrated once, and a study of each seed."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from benchmarks.parse.texts import PARTS, PROMPT, Domain, corpus, domains
from gacfx import demo
from gacfx.calibration.gather import gather_texts
from gacfx.captured import captured
from gacfx.core.statistics import Statistics
from gacfx.core.stored_moments import merge
from gacfx.core.work_folder import WorkFolder
from gacfx.graph.notes import target_sites
from gacfx.routing.prompts import Prompts
from gacfx.routing.study import RoutingStudy

THREE = ("stories", "shakespeare", "wikitext")
FIVE = (*THREE, "code", "math")


@dataclass(frozen=True)
class Subject:
    """A model, and how much text it is given."""

    name: str
    folder: str
    """Below the data; empty for one that is named on the command line."""
    domains: tuple[str, ...]
    windows: int
    """Of each part of a domain."""
    tests: int
    """Windows to test on, of each domain and seed."""
    block: int
    """Ranks that are picked together."""
    removed: tuple[str, ...]
    """Shares of the targeted weights that do not run."""


SUBJECTS = {
    each.name: each
    for each in (
        Subject("stories260K", "models/stories260K", THREE, 64, 32, 8, ("0.2", "0.4")),
        Subject("babyllama", "models/babyllama-tok105-1M", THREE, 64, 32, 8, ("0.2", "0.4", "0.6")),
        Subject("demo", "", ("code", "wikitext"), 64, 32, 8, ("0.2", "0.4")),
        Subject("smollm2", "", FIVE, 40, 16, 16, ("0.2", "0.4")),
    )
}


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A model with the statistics of all parts of its texts."""

    subject: Subject
    model: Any
    tokenizer: Any
    graph: GraphModule
    texts: tuple[Domain, ...]
    statistics: tuple[tuple[Statistics, ...], ...]
    """[domain][part]."""

    def study(
        self, seed: int, method: str = "gfwsvd", *, without: str = "", only: str = ""
    ) -> RoutingStudy:
        """The study of a seed, of all domains, all but one, or one."""
        names = [each.name for each in self.texts]
        chosen = [at for at, name in enumerate(names) if name != without and only in ("", name)]
        fit, held = [], []
        for at in chosen:
            parts = self.statistics[at]
            fit.append(merge([p for i, p in enumerate(parts) if i != seed % PARTS], ""))
            held.append(parts[seed % PARTS])
        windows = [torch.cat(self.texts[at].parts)[:, :PROMPT] for at in chosen]
        prompts = Prompts.of(self.model, windows, PROMPT)
        kinds = tuple(names[at] for at in chosen)
        known = (kinds, tuple(fit), tuple(held), prompts)
        return RoutingStudy(self.model, self.graph, method, *known, remember=True)

    def tests(self, seed: int) -> Tensor:
        """Windows of all domains to test on, [P, T], one domain after the other."""
        return torch.cat([each.tests[seed] for each in self.texts])


def calibrated(subject: Subject, data: Path, folder: Path | None, work: Path | None) -> Calibrated:
    """A model and its statistics, from a work folder if it is named."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = demo.MODEL if subject.name == "demo" else folder or data / subject.folder
    model: nn.Module = AutoModelForCausalLM.from_pretrained(
        where, dtype=torch.float32, trust_remote_code=False
    ).eval()
    model.requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
    first = int(tokenizer.bos_token_id)
    made = domains(
        data,
        tokenizer,
        subject.domains,
        windows=subject.windows,
        tests=subject.tests,
        first=first,
    )
    texts = tuple(made)
    corpora = tuple(corpus(part) for each in texts for part in each.parts)
    graph = captured(model, seq=192).graph
    store = None
    if work is not None:
        store = WorkFolder(work, {"text": [each.digest for each in corpora]})
    found = gather_texts(model, corpora, target_sites(graph), store=store)
    rows: Iterator[tuple[Statistics, ...]] = (
        found[at : at + PARTS] for at in range(0, len(found), PARTS)
    )
    return Calibrated(subject, model, tokenizer, graph, texts, tuple(rows))
