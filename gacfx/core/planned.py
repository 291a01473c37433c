"""A plan together with the factors that carry it out: what every door loads."""

from dataclasses import dataclass
from pathlib import Path

from gacfx.core.materialise import FactorSet
from gacfx.core.plan import Plan
from gacfx.core.plan_folder import load_plan, save_plan


@dataclass(frozen=True, eq=False)
class Planned:
    """A plan and its factors; a folder with ``plan.json`` and ``factors.safetensors`` on disk."""

    plan: Plan
    factors: FactorSet

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write both files; each appears whole or not at all.

        Raises:
            CheckpointError: the folder has one of them and ``overwrite`` is false, or it cannot be
                written.
        """
        save_plan(Path(folder), self.plan, self.factors, overwrite=overwrite)

    @staticmethod
    def load(folder: str | Path) -> "Planned":
        """What :meth:`save` wrote, checked again.

        Raises:
            CheckpointError, PlanError: a file is missing or malformed, or they do not belong
                together.
        """
        return Planned(*load_plan(Path(folder)))
