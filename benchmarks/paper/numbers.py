"""What each part of a plan brings, at four ratios: excess loss, and what was promised of it.

    python -m benchmarks.paper.numbers --smollm2 FOLDER --work FOLDER [--statistics FOLDER]
    python -m benchmarks.paper.numbers --smollm2 FOLDER --work FOLDER --rows pairs ranks

    asvd        ASVD, one share for all weights
    svd-llm     SVD-LLM, which has one share for all
    pairs-any   exact plan of pairs of factors, any rank
    pairs       the same in steps of 8
    ranks       pairs and pivots, steps of 8, losses by moments
    tokens      the same, losses token by token
    corrected   pruning beside ranks, and one round of corrections, steps of 8
    healed      the last row, once it learnt from the dense model

Losses are in nats per token over the dense model, in float32, on the text that
:mod:`benchmarks.paper.table5` names. A promise is what the plan says of its loss without a look at
that text; healing promises nothing. Rows are kept one by one, and a run that was killed goes on.
"""

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.paper import views
from benchmarks.paper.cells import in_nats
from benchmarks.paper.kept import FAILED, Found, recall, remembered
from benchmarks.paper.numbers_plot import plot
from benchmarks.paper.recipes import ALIGN, OURS, PLAN, Recipe, make, named
from benchmarks.paper.rows import GPU, Heals, digest_of, say
from benchmarks.paper.subject import Subject, add_arguments, read_subject
from gacfx import api
from gacfx.calibration.evaluate import evaluate
from gacfx.checkpoint.checksums import FILES
from gacfx.checkpoint.save import save_checkpoint
from gacfx.core.planned import Planned
from gacfx.core.search import Search
from gacfx.core.work_folder import remove_work
from gacfx.errors import HealingError, InfeasibleBudget, NotHealed
from gacfx.healing.door import heal
from gacfx.study import Study

NAME = "paper_numbers"
RATIOS = ("0.1", "0.2", "0.3", "0.4")
HEALED = "healed"


def _planned(name: str, label: str, search: Search) -> Recipe:
    return Recipe(name, label, "planned", OURS, search)


def _search(align: int, form: str, value: str = PLAN.value) -> Search:
    return Search(form=form, align=align, value=value)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("asvd", "ASVD, uniform", "own", "asvd:allocation=uniform"),
        Recipe("svd-llm", "SVD-LLM, uniform", "own", "svd-llm"),
        _planned("pairs-any", "pairs, any rank", _search(1, "pair")),
        _planned("pairs", "pairs", _search(ALIGN, "pair")),
        _planned("ranks", "pairs and pivots", _search(ALIGN, "auto")),
        _planned("tokens", "the same, token by token", _search(ALIGN, "auto", "per-token")),
        _planned("corrected", "with pruning and corrections", PLAN),
        Recipe(HEALED, "healed", "healed", start="corrected"),
    )
}
"""Name -> row."""


@dataclass(frozen=True, eq=False)
class Numbers:
    """The rows at work."""

    subject: Subject
    heals: Heals

    def run(self, names: Sequence[str], ratios: Sequence[str]) -> list[Found]:
        """Every row at every ratio, and those that they begin with; one study makes what is
        missing."""
        names = [recipe.name for recipe in named([*RECIPES.values()], names)]
        wanted = [(RECIPES[name], ratio) for ratio in ratios for name in names]
        todo = [one for one in wanted if one[0].name != HEALED and not self.there(*one)]
        for ratio in ratios if HEALED in names else ():
            start = (RECIPES[RECIPES[HEALED].start], ratio)
            if not self.there(RECIPES[HEALED], ratio) and not self.checkpoint(ratio):
                self.file(*start).unlink(missing_ok=True)  # the plan is made again
                todo += [] if start in todo else [start]
        if todo:
            with self.subject.study(OURS) as study:
                for recipe, ratio in todo:
                    self.row(recipe, ratio, partial(self.planned, study, recipe, ratio, names))
        rows = []
        for recipe, ratio in wanted:
            rows.append(self.row(recipe, ratio, partial(self.healed, ratio)))
            if recipe.name == HEALED:  # only now, as a run may be killed before
                remove_work(self.healing(ratio))
                shutil.rmtree(self.folder(ratio), ignore_errors=True)
        return rows

    def row(self, recipe: Recipe, ratio: str, step: Any) -> Found:
        """One row, done or known."""
        found = remembered(self.file(recipe, ratio), self.key(recipe, ratio), step)
        what = found[FAILED] or f"{found['excess_nats']:.4f}"
        say(f"{recipe.name} {ratio}", what, found["seconds"])
        return {"name": recipe.name, "row": recipe.label, "ratio": ratio, **found}

    def planned(self, study: Study, recipe: Recipe, ratio: str, names: Sequence[str]) -> Found:
        """Plan, and measure; keep the model that a healing begins with."""
        try:
            made = make(recipe, study, ratio, api.load_profile(GPU))
        except InfeasibleBudget as error:
            return {FAILED: str(error)}
        nats = study.measure(made, self.subject.judge)
        if recipe.name == RECIPES[HEALED].start and HEALED in names:
            self.save(ratio, made)
        plan, dims = made.plan, made.plan.sizes
        value = plan.provenance.value_model
        return {
            FAILED: "",
            "kept_share": plan.kept_params / plan.budget.targeted_params,
            "aligned": sum(size % ALIGN == 0 for size in dims) / max(len(dims), 1),
            "counts": plan.counts,
            "promised_nats": round(plan.loss_nats, 6) if in_nats(value) else None,
            "excess_nats": round(nats - self.dense_nats, 6),
        }

    def healed(self, ratio: str) -> Found:
        """Heal what was kept, and measure."""
        folder = self.folder(ratio)
        if not self.checkpoint(ratio):
            return {FAILED: "the plan that it begins with was not made"}
        try:
            found = heal(
                folder,
                against=self.subject.folder,
                calibration=self.subject.calibration,
                tokens=self.heals.tokens,
                minutes=self.heals.minutes,
                step_tokens=self.heals.step_tokens,
                work=self.healing(ratio),
                temporary=True,
            )
        except (NotHealed, HealingError) as error:
            return {FAILED: str(error)}
        nats = evaluate(found.model, self.subject.judge).checked().nats_per_token
        plan = found.planned.plan
        return {
            FAILED: "",
            "kept_share": plan.kept_params / plan.budget.targeted_params,
            "aligned": 1.0 if all(size % ALIGN == 0 for size in plan.sizes) else 0.0,
            "counts": plan.counts,
            "promised_nats": None,
            "excess_nats": round(nats - self.dense_nats, 6),
            "tokens": found.healing["tokens"],
        }

    @property
    def dense_nats(self) -> float:
        """Loss of the dense model on the judging text, nats per token."""
        key = {"dense": self.subject.digest, "judge": self.subject.judge.digest}

        def measure() -> Found:
            found = evaluate(self.subject.model, self.subject.judge).checked()
            return {"nats_per_token": found.nats_per_token}

        found = remembered(self.subject.work / "dense.json", key, measure)
        return float(found["nats_per_token"])

    def save(self, ratio: str, made: Planned) -> None:
        """Write the checkpoint that a healing begins with."""
        save_checkpoint(
            api.apply(self.subject.model, made), self.subject.tokenizer, self.folder(ratio),
            plan=made.plan, factors=made.factors, overwrite=True,
        )  # fmt: skip

    def checkpoint(self, ratio: str) -> str | None:
        """Digest of the checkpoint that a healing begins with; None where it is not there."""
        folder = self.folder(ratio)
        return digest_of(folder) if (folder / FILES).exists() else None

    def folder(self, ratio: str) -> Path:
        """Of that checkpoint."""
        return self.subject.work / f"corrected@{ratio}"

    def healing(self, ratio: str) -> Path:
        """Work folder of the healing."""
        return self.subject.work / f"healing@{ratio}"

    def file(self, recipe: Recipe, ratio: str) -> Path:
        """Where a row is kept."""
        return self.subject.work / f"{recipe.name}@{ratio}.json"

    def there(self, recipe: Recipe, ratio: str) -> bool:
        """A row is known."""
        found = recall(self.file(recipe, ratio), self.key(recipe, ratio))
        return found is not None

    def key(self, recipe: Recipe, ratio: str) -> dict[str, Any]:
        """What a row depends on."""
        limits = [self.heals.tokens, self.heals.minutes] if recipe.name == HEALED else None
        return {
            "dense": self.subject.digest,
            "text": self.subject.calibration.digest,
            "judge": self.subject.judge.digest,
            "recipe": repr(recipe),
            "ratio": ratio,
            "heals": limits,
        }


def main(given: Sequence[str] | None = None) -> int:
    """0: a row that cannot be made is a result."""
    parser = argparse.ArgumentParser(description="What each part of a plan brings.")
    add_arguments(parser, NAME)
    parser.add_argument("--rows", nargs="+", choices=[*RECIPES], default=[*RECIPES])
    parser.add_argument("--ratios", nargs="+", default=list(RATIOS))
    parser.add_argument("--heal-tokens", type=int, default=60_000, help="at most (60,000)")
    parser.add_argument("--heal-minutes", type=float, default=10.0, help="at most (10)")
    parser.add_argument("--plot", type=Path, help="picture, SVG or PNG (beside the results)")
    asked = parser.parse_args(given)
    subject = read_subject(asked, "numbers")
    numbers = Numbers(subject, Heals(asked.heal_tokens, asked.heal_minutes))
    rows = numbers.run(asked.rows, asked.ratios)
    print(views.numbers(rows).markdown())
    results: dict[str, Any] = {
        "model": subject.folder.name,
        "calibration_tokens": subject.calibration.tokens,
        "evaluation": subject.evaluation(asked.text),
        "dense_nats_per_token": numbers.dense_nats,
        "rows": rows,
    }
    picture = asked.plot or (asked.out or record.RESULTS / NAME).with_suffix(".svg")
    if any(not row[FAILED] for row in rows):
        results["picture"] = plot(rows, picture, subject.folder.name).name
    print(record.write(NAME, results, asked.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
