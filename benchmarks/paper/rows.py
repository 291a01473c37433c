"""Rows of a table: every one is made, saved and measured once, and a run that was killed goes on.

WORK/asvd/               the checkpoint
WORK/asvd.made.json      how it was made
WORK/asvd.quality.json   one cell
"""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.paper.cells import MEASURES, Row, Settings, key_of, plan_of
from benchmarks.paper.kept import FAILED, Found, recall, remembered
from benchmarks.paper.recipes import Recipe, make
from benchmarks.paper.subject import Subject
from gacfx import api
from gacfx.checkpoint.checksums import FILES
from gacfx.checkpoint.save import save_checkpoint
from gacfx.core.files.reading import read_text
from gacfx.core.planned import Planned
from gacfx.errors import HealingError, InfeasibleBudget, NotHealed
from gacfx.healing.door import heal
from gacfx.healing.settings import STEP_TOKENS
from gacfx.study import Study

GPU = "h200"
"""Whose name plans carry; sizes are multiples of 8 on all of them."""


@dataclass(frozen=True, slots=True)
class Heals:
    """How far a healing goes."""

    tokens: int = 60_000
    minutes: float = 10.0
    step_tokens: int = STEP_TOKENS


@dataclass(frozen=True, slots=True)
class Seeded:
    """A recipe with a seed of its statistics, and of the order of a healing."""

    recipe: Recipe
    seed: int

    @property
    def name(self) -> str:
        """Of its files."""
        return self.recipe.name + (f"-seed{self.seed}" if self.seed else "")

    @property
    def start(self) -> str:
        """Name of the row that a healed one begins with."""
        return Seeded(Recipe(self.recipe.start, "", "planned"), self.seed).name


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of one ratio, at work."""

    subject: Subject
    ratio: str
    settings: Settings
    heals: Heals

    def run(self, rows: Sequence[Seeded], cells: Sequence[str]) -> list[Found]:
        """Everything of every row, in their order."""
        self.make(rows)
        return [self.measured(row, cells) for row in rows]

    def make(self, rows: Sequence[Seeded]) -> None:
        """The checkpoints that are not there yet; a study is opened once for all that it serves."""
        studies: dict[tuple[str, int], list[Seeded]] = {}
        for row in rows:
            if row.recipe.how not in ("dense", "healed") and self.known(row) is None:
                studies.setdefault((row.recipe.gathers, row.seed), []).append(row)
        for (method, seed), some in studies.items():
            begin = time.perf_counter()
            with self.subject.study(method, seed) as study:
                say("statistics", method, time.perf_counter() - begin)
                for row in some:
                    self.remembered(row, partial(self.planned, study, row))
        for row in rows:
            if row.recipe.how == "healed" and self.known(row) is None:
                self.remembered(row, partial(self.healed, row))

    def planned(self, study: Study, row: Seeded) -> Found:
        """Make one checkpoint; a budget that a method cannot keep is a result."""
        try:
            made = make(row.recipe, study, self.ratio, api.load_profile(GPU))
        except InfeasibleBudget as error:
            return {FAILED: str(error)}
        model = api.apply(self.subject.model, made)
        self.save(row, model, made)
        return {FAILED: "", "versions": record.versions(), "held_back": _held_back(made)}

    def healed(self, row: Seeded) -> Found:
        """Heal one checkpoint; that nothing came out better is a result."""
        if self.start_digest(row) is None:
            return {FAILED: f"{row.start}, with which it begins, was not made"}
        try:
            found = heal(
                self.folder(row.start),
                against=self.subject.folder,
                calibration=self.subject.calibration,
                tokens=self.heals.tokens,
                minutes=self.heals.minutes,
                step_tokens=self.heals.step_tokens,
                seed=row.seed,
                work=self.subject.work / f"{row.name}.healing",
            )
        except (NotHealed, HealingError) as error:
            return {FAILED: str(error)}
        self.save(row, found.model, found.planned)
        return {FAILED: "", "versions": record.versions(), "healing": found.healing}

    def save(self, row: Seeded, model: Any, made: Planned) -> None:
        """Write the checkpoint."""
        tokenizer = self.subject.tokenizer
        out = self.folder(row.name)
        save_checkpoint(
            model, tokenizer, out, plan=made.plan, factors=made.factors, overwrite=True
        )  # fmt: skip

    def measured(self, row: Seeded, cells: Sequence[str]) -> Found:
        """What a row has, with the cells that are asked for."""
        said = {"name": row.name, "row": row.recipe.label, "seed": row.seed}
        made = self.known(row)
        if row.recipe.how == "dense":
            place = Row(self.subject.folder, self.subject.digest, None)
        elif made is None or made[FAILED]:
            return {**said, FAILED: "not made yet" if made is None else made[FAILED]}
        else:
            folder = self.folder(row.name)
            place = Row(folder, digest_of(folder), plan_of(folder))
        found: Found = {**said, **({} if made is None else {"made": made})}
        for cell in cells:
            path = self.subject.work / f"{row.name}.{cell}.json"
            key = key_of(cell, self.subject, place, self.settings)
            step = partial(MEASURES[cell], self.subject, place, self.settings)
            found[cell] = remembered(path, key, step)
            say(row.name, cell, found[cell]["seconds"])
        return found

    def remembered(self, row: Seeded, step: Any) -> Found:
        """How a row was made."""
        found = remembered(self.made_file(row), self.key(row), step)
        say(row.name, found[FAILED] or "made", found["seconds"])
        return found

    def known(self, row: Seeded) -> Found | None:
        """How a row was made; None where it was not, or in another way, or its folder is gone."""
        found = recall(self.made_file(row), self.key(row))
        if found is not None and not found[FAILED] and not (self.folder(row.name) / FILES).exists():
            self.made_file(row).unlink()
            return None
        return found

    def key(self, row: Seeded) -> dict[str, Any]:
        """What a checkpoint depends on."""
        healed = row.recipe.how == "healed"
        return {
            "dense": self.subject.digest,
            "text": self.subject.calibration.digest,
            "ratio": self.ratio,
            "recipe": repr(row.recipe),
            "seed": row.seed,
            "heals": asdict(self.heals) if healed else None,
            "start": self.start_digest(row) if healed else None,
        }

    def start_digest(self, row: Seeded) -> str | None:
        """Of the checkpoint that a healing begins with; None where it is not there."""
        folder = self.folder(row.start)
        return digest_of(folder) if (folder / FILES).exists() else None

    def folder(self, name: str) -> Path:
        """Of the checkpoint of a row."""
        return self.subject.work / name

    def made_file(self, row: Seeded) -> Path:
        """Where it stands how a row was made."""
        return self.subject.work / f"{row.name}.made.json"


def seeded(recipes: Sequence[Recipe], seeds: int) -> Iterator[Seeded]:
    """Each recipe once, those that depend on a seed with every one."""
    for recipe in recipes:
        for seed in range(seeds if recipe.seeded else 1):
            yield Seeded(recipe, seed)


def digest_of(folder: Path) -> str:
    """sha256 of the checksums of a checkpoint's files."""
    return hashlib.sha256(read_text(folder / FILES).encode()).hexdigest()


def say(name: str, what: str, seconds: float) -> None:
    """One line of progress."""
    print(f"{name:24}{what:12}{seconds:8.1f} s", flush=True)


def seconds_of(rows: Sequence[Mapping[str, Any]]) -> float:
    """What all steps of the rows took; statistics not among them."""
    steps = [value for row in rows for value in row.values() if isinstance(value, dict)]
    return round(sum(float(step.get("seconds", 0)) for step in steps), 1)


def _held_back(made: Planned) -> dict[str, float]:
    known = made.plan.provenance
    dense = known.dense_nats_per_token or 0.0
    return {
        f"{trial.prune}, {trial.value_model}": round(trial.nats_per_token - dense, 6)
        for trial in known.trials
        if trial.nats_per_token is not None
    }
