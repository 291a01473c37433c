"""The road of one model: built, captured, inspected, compressed, pruned, saved, read, writing.

Every step is passed, or says what stopped it: a refusal of gacfx, a fault (any other exception), or
transformers, which cannot do the step with the dense model either.
"""

import copy
import inspect
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

import gacfx
from benchmarks.families.models import Family, ids, make
from benchmarks.families.unseen import unseen
from gacfx.calibration.text import Corpus
from gacfx.core.search import Bound, Prune, Search
from gacfx.core.sites import Workload
from gacfx.core.structures import Structure
from gacfx.errors import GacError, InfeasibleBudget, PassError
from gacfx.tracing.inputs import BATCH, SEQ, example_inputs

Outcome = Literal["passed", "refused", "fault", "upstream"]
RATIO, DOCUMENTS, TOKENS, NEW = 0.2, 6, 40, 4
HEADS = (0.4, 0.2, 0.1, 0.03)
"""Shares of the attentions' parameters that are asked of heads, until one can be had."""
LONGEST = 300
"""Characters of an error."""
EXPERTS = "grouped_mm"
"""The implementation of experts that can be captured."""


@dataclass(frozen=True, slots=True)
class Step:
    """What became of one step."""

    name: str
    outcome: Outcome
    seconds: float
    """Of the processor."""
    error: str = ""
    """Class and first line, and the next one after a colon."""
    where: str = ""
    """The innermost line of gacfx, else of transformers."""
    facts: dict[str, Any] = field(default_factory=dict)


class Upstream(Exception):  # noqa: N818 - says whose fault
    """transformers cannot do it with the dense model."""


class Differs(Exception):  # noqa: N818 - says what happened
    """A result is not what it has to be."""


Facts = dict[str, Any]


def travel(family: Family, folder: Path, tell: Callable[[str | Step], object]) -> None:
    """Go the road as far as it leads; ``tell`` hears the name of each step, then the step."""
    trip = Trip(family, folder)
    passed: set[str] = set()
    for name, needs, action in ROAD:
        if set(needs) <= passed and trip.takes(name):
            tell(name)
            step = take(name, partial(action, trip))
            step = replace(step, error=step.error.replace(str(folder), "FOLDER"))
            passed |= {name} if step.outcome == "passed" else set()
            tell(step)


def take(name: str, action: Callable[[], Facts]) -> Step:
    """Do a step and say what became of it."""
    begin = time.process_time()
    outcome: Outcome = "passed"
    error, where, facts = "", "", {}
    try:
        facts = action()
    except Exception as caught:
        outcome = _outcome(name, caught)
        error, where = _text(caught), _where(caught)
    return Step(name, outcome, round(time.process_time() - begin, 2), error, where, facts)


def _outcome(name: str, error: Exception) -> Outcome:
    """A pass that wraps whatever went wrong in it refuses nothing."""
    if isinstance(error, GacError) and not (isinstance(error, PassError) and error.__cause__):
        return "refused"
    return "upstream" if isinstance(error, Upstream) or name in ("build", "forward") else "fault"


def _text(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = lines[:2] if lines and lines[0].endswith(":") else lines[:1]
    return f"{type(error).__name__}: {' '.join(told) or 'no message'}"[:LONGEST]


def _where(error: BaseException) -> str:
    """``gacfx/graph/ops.py:operands`` of the innermost call in gacfx, else in transformers.

    Of the error that one of gacfx was made from, if there is one.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)
    for package in ("gacfx", "passes", "transformers"):
        for frame in reversed(frames):
            _, found, rest = frame.filename.rpartition(f"/{package}/")
            if found:
                return f"{package}/{rest}:{frame.lineno} {frame.name}"
    return ""


def corpus() -> Corpus:
    """Random documents."""
    return Corpus(tuple(ids(1, TOKENS, seed)[0] for seed in range(DOCUMENTS)))


class Trip:
    """The steps of one model; what one makes, later ones use."""

    def __init__(self, family: Family, folder: Path) -> None:
        self.family, self.folder = family, folder
        self.model: Any = None
        self.made: Any = None
        self.read: Any = None
        self.experts = False
        self.prunable: list[Structure] = []
        """Structures that may be pruned."""
        self.small = folder / "small"
        """Where the compressed model is."""

    def takes(self, step: str) -> bool:
        """The step is one for this model."""
        if step == "as built":
            return self.experts
        if step == "heads":
            return any(each.kind == "heads" for each in self.prunable)
        return step in ("build", "capture", "inspect", "dims") or self.writes

    @property
    def writes(self) -> bool:
        """It predicts the next token of one text."""
        return bool(self.model.can_generate()) and not self.model.config.is_encoder_decoder

    def dense(self) -> Any:
        """The model once more, for who changes it."""
        return copy.deepcopy(self.model)

    # -- what can be known without text ----------------------------------------------------------

    def build(self) -> Facts:
        self.model = make(self.family)
        self.experts = bool(self.model._can_set_experts_implementation())
        layers = getattr(self.model.config.get_text_config(), "num_hidden_layers", None)
        params = sum(p.numel() for p in self.model.parameters())
        return {"params": params, "layers": layers, "experts": self.experts}

    def as_built(self) -> Facts:
        """Capture before the experts' implementation is set."""
        gacfx.capture(self.model, seq=SEQ)
        return {}

    def capture(self) -> Facts:
        if self.experts:
            self.model.set_experts_implementation(EXPERTS)
        graph = gacfx.capture(self.model, seq=SEQ)
        return {"nodes": len(graph.graph.nodes)}

    def inspect(self) -> Facts:
        workload = Workload(BATCH, SEQ)
        found = gacfx.inspect(self.model, batch=BATCH, seq=SEQ)
        before = copy.deepcopy(self.model.state_dict())
        left = unseen(found.graph, example_inputs(self.model), workload)
        after = self.model.state_dict()
        if changed := [name for name in before if not torch.equal(before[name], after[name])]:
            self.model.load_state_dict(before)
            raise Differs(f"a run of the graph changes the model: {changed[0]}")
        shares = {"unseen_flops": round(left.flops, 4), "unseen_params": round(left.params, 4)}
        by = {"operators": list(left.operators), "weights": list(left.weights)}
        return {"sites": len(found.rows), "params": found.params, **shares, **by}

    def dims(self) -> Facts:
        found = gacfx.inspect(self.model, batch=BATCH, seq=SEQ, dims=True).structures
        why = Counter(each.refused for each in found if each.refused)
        self.prunable = [each for each in found if not each.refused]
        return {
            "structures": len(found),
            "may_be_pruned": len(self.prunable),
            "refusals": dict(sorted(why.items())),
        }

    # -- compression -----------------------------------------------------------------------------

    def forward(self) -> Facts:
        """The dense model reads a text of tokens alone."""
        logits = self.logits(self.model)
        if not bool(logits.isfinite().all()):
            raise Upstream("its logits are not finite")
        return {}

    def logits(self, model: Any) -> torch.Tensor:
        """[2, 11, vocabulary]"""
        takes = "use_cache" in inspect.signature(model.forward).parameters
        with torch.no_grad():
            found = model(input_ids=ids(2, 11), **({"use_cache": False} if takes else {})).logits
        assert isinstance(found, torch.Tensor)
        return found

    def compress(self) -> Facts:
        self.made = self.compressed(Search(value="two-sided"))
        return self.result()

    def prune(self) -> Facts:
        """Sizes alone, or sizes beside ranks where they would not be enough; no block goes."""
        menus: tuple[Prune, ...] = ("only", "either") if self.prunable else ("either",)
        for menu in menus:
            bounds = (Bound("*"),)
            search = Search(value="two-sided", prune=menu, bounds=bounds)
            try:
                self.made = self.compressed(search)
            except InfeasibleBudget:
                if menu == menus[-1]:
                    raise
            else:
                break
        return {"menu": menu, **self.result()}

    def heads(self) -> Facts:
        """Heads go and nothing else, as many as leave a plan; saved and read again."""
        widths = [each for each in self.prunable if each.kind == "width"]
        bounds = (Bound("*"), *(Bound(each.name, each.units) for each in widths))
        search = Search(value="two-sided", prune="only", bounds=bounds)
        mine = sum(each.dense_params for each in self.prunable if each.kind == "heads")
        for share in HEADS:
            try:
                ratio = share * mine / self.made.planned.plan.budget.targeted_params
                self.made = self.compressed(search, ratio)
            except InfeasibleBudget:
                continue
            return {"share": share, **self.result(), **self.read_pruned()}
        return {"share": 0.0}

    def read_pruned(self) -> Facts:
        self.small = self.folder / "pruned"
        gacfx.save(self.made, self.small, overwrite=True)
        return self.load()

    def compressed(self, search: Search, ratio: float = RATIO) -> Any:
        return gacfx.compress(
            self.dense(), calibration=corpus(), ratio=ratio, search=search, force=True
        )

    def result(self) -> Facts:
        """What a plan did to a model."""
        plan = self.made.planned.plan
        kinds = Counter(choice.decision.kind for choice in plan.choices)
        if not kinds.keys() - {"dense"}:
            raise Differs("the plan changes nothing")
        kept = sum(p.numel() for p in self.made.model.parameters())
        return {
            "targeted": round(plan.budget.targeted_params / plan.budget.model_params, 4),
            "decisions": dict(sorted(kinds.items())),
            "params": kept,
        }

    def save(self) -> Facts:
        gacfx.save(self.made, self.small)
        return {}

    def load(self) -> Facts:
        self.read = self.comes_back(lambda: gacfx.load(self.small)[0])
        return {"apart": 0.0}

    def from_pretrained(self) -> Facts:
        self.comes_back(lambda: self.loader.from_pretrained(self.small, trust_remote_code=False))
        return {"apart": 0.0}

    def comes_back(self, read: Callable[[], Any]) -> Any:
        """The model that was read, if its logits are those of the one that was written."""
        try:
            return self.same(self.made.model, read())
        except Exception:
            self.upstream("be saved and read", self.dense_again)
            raise

    def dense_again(self) -> None:
        folder = self.folder / "dense"
        self.model.save_pretrained(folder)
        self.same(self.model, self.loader.from_pretrained(folder, trust_remote_code=False))

    @property
    def loader(self) -> Any:
        """What transformers reads such a model with."""
        import transformers

        name = "AutoModelForCausalLM" if self.family.causal else self.family.cls
        return getattr(transformers, name)

    def same(self, written: Any, read: Any) -> Any:
        """``read``, if its logits are those of ``written``, to the last bit.

        Weights that were read begin anywhere in memory, and some products round by that: a copy
        has them where all others are.
        """
        ours, theirs = self.logits(written), self.logits(copy.deepcopy(read.eval()))
        apart = float((ours - theirs).abs().max())
        if apart != 0.0:
            raise Differs(f"logits are {apart:.1e} apart, of {float(ours.abs().max()):.1e}")
        return read

    def generate(self) -> Facts:
        self.upstream("generate", lambda: self.write(self.model))
        ours, theirs = self.write(self.made.model), self.write(self.read)
        if not torch.equal(ours, theirs):
            raise Differs(f"writes {theirs.tolist()}, wrote {ours.tolist()}")
        return {"tokens": ours.shape[1] - 5}

    def write(self, model: Any) -> torch.Tensor:
        text = ids(1, 5)
        found = model.generate(
            text, attention_mask=torch.ones_like(text), max_new_tokens=NEW, do_sample=False
        )
        assert isinstance(found, torch.Tensor)
        return found

    def upstream(self, what: str, action: Callable[[], object]) -> None:
        """Nothing where the dense model can do it.

        Raises:
            Upstream: it cannot.
        """
        try:
            action()
        except Exception as error:
            raise Upstream(f"the dense model cannot {what}: {_text(error)}") from error


ROAD: tuple[tuple[str, tuple[str, ...], Callable[[Trip], Facts]], ...] = (
    ("build", (), Trip.build),
    ("as built", ("build",), Trip.as_built),
    ("capture", ("build",), Trip.capture),
    ("inspect", ("capture",), Trip.inspect),
    ("dims", ("capture",), Trip.dims),
    ("forward", ("build",), Trip.forward),
    ("compress", ("capture", "forward"), Trip.compress),
    ("save", ("compress",), Trip.save),
    ("load", ("save",), Trip.load),
    ("from_pretrained", ("save",), Trip.from_pretrained),
    ("generate", ("load",), Trip.generate),
    ("prune", ("compress",), Trip.prune),
    ("prune, read again", ("prune",), Trip.read_pruned),
    ("heads", ("compress",), Trip.heads),
)
"""(name, steps that have to be passed before, what is done)"""
