"""A study: a model whose calibration was measured once, so that plans for it come cheap.

study = Study.make(model, corpus, method="gfwsvd")
planned = study.plan("0.2", profile=h200)          # seconds: nothing is calibrated again
upstream = study.upstream("0.2", profile=h200)     # the method's own irregular ranks
"""

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from importlib.metadata import version

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import gacfx
from gacfx.best_plan import best_plan
from gacfx.calibration.evaluate import evaluate, token_losses
from gacfx.calibration.readable import of_readable
from gacfx.calibration.sanity import check_causal, check_reads
from gacfx.calibration.text import Corpus, split
from gacfx.captured import captured, treated
from gacfx.compressors.methods import METHODS
from gacfx.compressors.protocol import Compressor, Statistic
from gacfx.compressors.values import TRIED, VALUES, Losses
from gacfx.core.asked import check_asked
from gacfx.core.curve_file import Curves
from gacfx.core.goal import Goal, as_goal
from gacfx.core.locks import fingerprint
from gacfx.core.own_sizes import OWN_VALUE, Sizes
from gacfx.core.plan import Plan
from gacfx.core.planned import Planned
from gacfx.core.provenance import Provenance
from gacfx.core.search import DEFAULT_SEARCH, Search
from gacfx.core.settings import file_name
from gacfx.core.statistics import Statistics
from gacfx.core.store import Store
from gacfx.core.structures import Structure
from gacfx.core.surroundings import plain_torch
from gacfx.errors import CalibrationError, PlanError
from gacfx.evidence import Evidence, gather_evidence, skip_losses
from gacfx.graph.notes import state
from gacfx.graph.ops import DTYPES
from gacfx.hardware.profile import Profile
from gacfx.modules.experts import unpacked
from gacfx.modules.install import swapped
from gacfx.on_text import losses_on_text
from gacfx.passes.planning.measure_bases import long_inputs
from gacfx.passes.planning.measure_curves import check_method
from gacfx.passes.planning.read_graph import graph_curves, targeted_params
from gacfx.progress import Count, Progress
from gacfx.refit import Texts, refit
from gacfx.suitable import check_model
from gacfx.upstream import check_own, own_plan
from gacfx.work import remembered_curves


@dataclass(frozen=True, eq=False)
class Study:
    """A model, its graph, and what calibration found.

    Value models are compared with evidence from three quarters of the windows, by measured loss
    on the last quarter; the plan itself then uses the evidence of all of them.
    """

    model: nn.Module
    graph: GraphModule
    method: str
    fit: Evidence
    full: Evidence
    held_back: Corpus
    dense_nats: float
    """Loss of the dense model on the held-back text, nats per token."""
    progress: Progress
    structures: tuple[Structure, ...] = ()
    """Coupled structures whose moments were gathered on both sides; empty where none was asked
    for."""
    skips: dict[str, float] = field(default_factory=dict)
    """Structure -> measured rise without its block; filled when it is first asked for."""
    device: torch.device | None = None
    """Where layers compute, one at a time; None for where the model is."""
    measured: dict[str, list[float]] = field(default_factory=dict)
    """What methods measured for sizes of their own; filled when they are asked for."""
    on_text: dict[str, Mapping[str, Losses]] = field(default_factory=dict)
    """Method -> losses of its factors, measured on held-back text when they are first asked for."""
    fitted: Corpus | None = None
    """The text of ``fit``, for methods that refit factors in the compressed model."""

    @staticmethod
    @plain_torch()
    def make(
        model: nn.Module,
        corpus: Corpus,
        *,
        method: str = "gfwsvd",
        skip: tuple[str, ...] = (),
        seed: int = 0,
        seq: int = 1024,
        structures: bool = False,
        progress: Progress = lambda *_: None,
        force: bool = False,
        store: Store | None = None,
        device: torch.device | None = None,
        executor: Executor | None = None,
        shards: int = 1,
    ) -> "Study":
        """Capture the model, choose targets and gather statistics.

        A quarter of the windows is held back for comparing value models. Windows on which the
        model's logits are NaN or infinite are left out, with a warning that counts them.

        Args:
            model: dense, in evaluation mode.
            corpus: calibration text.
            method: metric of the factors.
            skip: patterns of module names to leave dense.
            seed: of the sampled labels.
            seq: tokens of a sequence for which attention calls are recorded.
            structures: also gather what pruning needs, 8 L^2 bytes for each long side L; for a
                method that makes widths always, with what else it needs (see
                :class:`gacfx.compressors.protocol.Statistic`).
            progress: called with (stage, done, total).
            force: go on with a model that predicts the text worse than guessing.
            store: where statistics and decompositions live; the model is then calibrated one
                decoder layer at a time. None to hold all of them in memory.
            device: with a store, where layers compute while they are at work, and weights are
                decomposed; None for where the model is.
            executor: whose workers decompose weights, one task each, here and in all plans; None
                for this process. Results are the same. It is not shut down.
            shards: parts of the text that they gather at the same time, each with a copy of the
                model; 1 to gather in this process.

        Raises:
            PipelineError: no such method.
            UnsupportedModel: no weight of the model can be compressed, or pruned by a method that
                does nothing else; lists the reasons. Or it sees the future, so that its loss means
                nothing.
            PoorQuality: the dense model does not know this text.
            CalibrationError: too little text, weights that are not finite, or no window that the
                model has numbers for.
            WorkerFailed: a worker of the executor died.
        """
        check_asked(skip=skip, seed=seed, force=force)
        if shards < 1 or (shards > 1 and executor is None):
            raise CalibrationError(f"shards {shards}: give 1, or more with an executor")
        check_method(method)
        check_model(model)
        model = unpacked(model)
        progress("capture", 0, 1)
        known = METHODS.find(method)
        method = known.name  # the one spelling of its settings
        found = captured(model, skip=skip, seq=seq, structures=structures or known.prunes)
        if known.prunes:
            found.check_prunes(method)
        graph = found.graph
        own = treated(graph, known)
        progress("capture", 1, 1)
        rounds = 1 + (Statistic.WEIGHT_GRADIENTS in known.needs)

        def gathered(text: Corpus) -> tuple[Corpus, Corpus, tuple[Evidence, Evidence, float]]:
            """(to fit, held back, what is known of them)."""
            part, held_back = split(text)
            check_causal(model, text)
            if not force:
                check_reads(model, held_back, store, device)
            evidence = gather_evidence(
                model,
                graph,
                (part, held_back),
                corpus.digest,
                known,
                both_sides=found.both_sides | long_inputs(graph, known),
                seed=seed,
                progress=Count(progress, "calibrate", len(text.documents) * rounds),
                store=store,
                device=device,
                executor=executor,
                shards=shards,
            )
            return part, held_back, evidence

        part, held_back, (fit, full, dense) = of_readable(
            gathered, model, corpus, store=store, device=device
        )
        if _lacks_inputs(graph, known, full.statistics):
            raise PlanError(
                f"method {method!r} needs the input moments of weights with more inputs than "
                "outputs, which this work folder was filled without; take a new one"
            )
        if heads := state(own).heads:
            fit, full = fit.afresh(method, heads), full.afresh(method, heads)
        made = (model, own, method, fit, full, held_back, dense, progress, found.structures)
        return Study(*made, device=device, fitted=part)

    def close(self) -> None:
        """Let others work in the folder of this study, if it has one; no plan can follow."""
        if self.full.store is not None:
            self.full.store.close()

    def with_method(self, method: str) -> "Study":
        """The same model and statistics under another method.

        Raises:
            PlanError: it needs what was not gathered, or treats more weights than this study has.
            UnsupportedModel: it treats none of them.
        """
        found = METHODS.find(method)
        lacks_inputs = _lacks_inputs(self.graph, found, self.full.statistics)
        lacks_gradients = Statistic.WEIGHT_GRADIENTS in found.needs and not self.full.gradients
        if lacks_inputs or lacks_gradients or (found.prunes and not self.structures):
            raise PlanError(
                f"method {method!r} needs what this study did not gather; make it with "
                f"Study.make(..., method={method!r})"
            )
        if state(self.graph).heads and not found.keys_and_values_only:
            raise PlanError(
                f"method {method!r} treats more than keys and values, which this study is of; make "
                f"it with Study.make(..., method={method!r})"
            )
        graph = treated(self.graph, found)
        heads = state(graph).heads
        fit, full = self.fit.afresh(method, heads), self.full.afresh(method, heads)
        return replace(self, method=found.name, graph=graph, fit=fit, full=full)

    @property
    def targeted_params(self) -> int:
        """Parameters of all targeted weights, dense."""
        return targeted_params(self.graph)

    @plain_torch()
    def plan(
        self,
        goal: Goal | str | float,
        *,
        profile: Profile,
        search: Search = DEFAULT_SEARCH,
        tried: bool = False,
    ) -> Planned:
        """The best plan: for each value model, and among those by measured loss.

        Args:
            goal: how much may remain; text or a number is the share of the targeted weights to
                remove, 0 <= share < 1.
            profile: GPU whose alignment the ranks follow.
            search: which sizes, what they are worth, who chooses.
            tried: also try a value model that ``search`` names, as ``auto`` tries its own: then
                the plan's provenance says what such a plan costs on text that it has not seen.
                Corrections have: they are measured on about 2,048 tokens of it.
        """
        return best_plan(self, as_goal(goal), profile, search, tried=tried)

    @plain_torch()
    def curves(
        self,
        value: str,
        known: Evidence | None = None,
        *,
        structures: bool = False,
        others: tuple[str, ...] = (),
    ) -> Curves:
        """The curves of all targets under a value model, with the locks of this model.

        Args:
            value: name of the value model.
            known: what they are made of; all calibration text if None.
            structures: with those of coupled structures.
            others: value models that will be asked for, too.
        """
        known = known or self.full
        part = "full" if known is self.full else "fit"
        name = f"{file_name(self.method)}.{part}.{value}.{'structures' if structures else 'ranks'}"
        return remembered_curves(
            known.store,
            name,
            lambda: self._measured(value, known, structures=structures, others=others),
        )

    def _measured(
        self, value: str, known: Evidence, *, structures: bool, others: tuple[str, ...]
    ) -> Curves:
        """The curves, measured."""
        if structures and not self.skips:
            text = self.full.statistics, self.held_back
            self.skips.update(skip_losses(self.model, self.structures, *text))
        skips = self.skips if structures else None
        on_text = losses_on_text(self) if VALUES.find(value).on_text else None
        others = tuple(each for each in others if not VALUES.find(each).on_text)
        known.measure(self.graph, self.method, value, skips, others, on_text)
        model = VALUES.find(value).label(METHODS.find(self.method))
        found = graph_curves(self.graph, self._provenance(model))
        facts = replace(
            found.facts, fingerprint=fingerprint(self.model), digests=known.statistics.digests
        )
        return Curves(facts, found.losses)

    def curves_of(self, plan: Plan) -> Curves:
        """The curves that a plan of this study was made of, with its provenance."""
        name, _, _ = plan.provenance.value_model.partition(":")
        if name == OWN_VALUE:  # no value model chose its sizes; its losses are those of the first
            return self.curves(TRIED[0])
        found = self.curves(name, structures=plan.provenance.search.prune != "none")
        found = found.corrected(plan.provenance.corrections)
        return Curves(replace(found.facts, provenance=plan.provenance), found.losses)

    @plain_torch()
    def upstream(
        self, goal: Goal | str | float, *, profile: Profile, tried: bool = False
    ) -> Planned:
        """The method's own allocation: its own rule, irregular sizes, no planner.

        Args:
            goal: as for :meth:`plan`.
            profile: GPU that the plan is named after.
            tried: also measure it on held-back text, as :meth:`plan` does.
        """
        return own_plan(self, as_goal(goal), profile, tried=tried)

    def sized(
        self,
        sizes: Sizes,
        goal: Goal | str | float,
        *,
        profile: Profile,
        search: Search,
        tried: bool = False,
    ) -> Planned:
        """The best plan, or the method's own sizes if those are asked for.

        Raises:
            InfeasibleBudget: own sizes that do not keep the budget.
        """
        if sizes == "planned":
            return self.plan(goal, profile=profile, search=search, tried=tried)
        made = self.upstream(goal, profile=profile, tried=tried)
        check_own(made.plan)
        return made

    def refitted(self, made: Planned) -> Planned:
        """The same plan, with second factors refitted if the method does that.

        They are fitted to the text of ``fit`` and taken where that helps on the held-back one.

        Raises:
            PlanError: this study was made without the text.
            UnsupportedModel: layers of the model do not run one at a time.
        """
        if not METHODS.find(self.method).refits:
            return made
        if self.fitted is None:
            raise PlanError(f"method {self.method!r} refits factors to text that this study lacks")
        texts = Texts(self.fitted, self.held_back)
        store = self.full.store
        return refit(self.model, made, texts, store=store, device=self.device).planned

    @plain_torch()
    def measure(self, planned: Planned, corpus: Corpus | None = None) -> float:
        """Loss of the model with these factors, nats per token; on the held-back text if None."""
        with swapped(self.model, planned.factors, planned.plan.blocks):
            found = evaluate(self.model, corpus or self.held_back, device=self.device)
            return found.nats_per_token

    @plain_torch()
    def token_losses(self, planned: Planned, corpus: Corpus) -> Tensor:
        """Loss of the model with these factors at every token that is predicted, float32, nats."""
        with swapped(self.model, planned.factors, planned.plan.blocks):
            return torch.cat(token_losses(self.model, corpus, device=self.device))

    @property
    def dtype(self) -> str:
        """Of the model's parameters."""
        return DTYPES[next(self.model.parameters()).dtype]

    def _provenance(self, value: str) -> Provenance:
        """Where the curves come from; what a plan adds is added by whoever makes it."""
        known = self.full.statistics
        return Provenance(
            method=self.method,
            value_model=value,
            gpu="",
            align=1,
            dtype=self.dtype,
            versions={
                "gacfx": gacfx.__version__,
                "torch": torch.__version__,
                "transformers": version("transformers"),
            },
            calibration_tokens=known.tokens,
            calibration_digest=known.text_digest,
            seed=known.seed,
            dense_nats_per_token=self.dense_nats,
        )


def _lacks_inputs(graph: GraphModule, method: Compressor, known: Statistics) -> bool:
    """Whether input moments that the method asks for were not gathered."""
    moments = known.moments
    wanted = (module for module in long_inputs(graph, method) if module in moments)
    return any(moments[module].long_moment is None for module in wanted)
