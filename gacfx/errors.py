"""Every error that gacfx raises on purpose.

    GacError
    ├── UnsupportedModel      the model, or a part of it that was asked for, cannot be handled
    ├── CaptureError          torch.export could not turn the model into one graph
    ├── CalibrationError      the text or the statistics made from it cannot be used
    │   ├── NoNumbers             the model's logits are NaN or infinite on a document
    │   └── DecompositionFailed   one weight cannot be factorized: keep it dense, say why
    ├── PipelineError         a pipeline is wrong before anything ran
    ├── PassError             a pass failed, or its result is not what it promised
    ├── PlanError             a planning problem or a plan is malformed
    │   ├── InfeasibleBudget  even the cheapest plan costs more than the budget
    │   └── PlanMismatch      the plan was made for another model or for other weights
    ├── PoorQuality           the model, or what would become of it, predicts text too badly
    │   └── NotHealed         no training made a compressed model better on held-back text
    ├── HealingError          a checkpoint cannot be healed, or not as it was asked for
    │   └── NoPeft            adapters were asked for, and PEFT is not installed
    ├── BenchError            a measurement was asked for that cannot be made
    ├── WorkerFailed          a worker of an executor died, or failed at what it was given
    ├── TaskError             a zero-shot task is unknown, or cannot be scored
    ├── CheckpointError       a checkpoint folder cannot be read or written
    │   └── NoRoom            a work folder may not take as much disk as a step needs
    ├── ExportError           a model has no such form, or an exporter or its engine failed
    │   └── NoExporter        a package that the form needs is not installed
    ├── ProfileError          a hardware profile is unknown or malformed
    ├── NoMatplotlib          a picture was asked for, and nothing here can draw
    └── NoLmEval              zero-shot tasks were asked for, and nothing here can score them

A message says what is wrong, where, and what to do about it.
"""


class GacError(Exception):
    """Base of every error that gacfx raises on purpose."""


class UnsupportedModel(GacError):  # noqa: N818 - reads as a verdict
    """The model, or a part of it that was asked for, cannot be handled."""


class CaptureError(GacError):
    """torch.export could not turn the model into one graph."""


class CalibrationError(GacError):
    """The calibration text, or the statistics made from it, cannot be used."""


class NoNumbers(CalibrationError):  # noqa: N818 - says what is missing
    """The logits of the model are NaN or infinite on a document; others may be good."""


class DecompositionFailed(CalibrationError):  # noqa: N818
    """One weight cannot be factorized; callers keep it dense and record the reason.

    Attributes:
        module: name of the module.
        reason: why, without the name.
    """

    def __init__(self, module: str, reason: str) -> None:
        super().__init__(f"{module}: {reason}; keep it dense")
        self.module = module
        self.reason = reason


class PipelineError(GacError):
    """The pipeline is wrong before anything ran: unknown pass, bad option, missing fact."""


class PassError(GacError):
    """A pass failed, or its result is not what it promised."""


class PlanError(GacError):
    """A planning problem or a plan is malformed."""


class InfeasibleBudget(PlanError):  # noqa: N818
    """Even the cheapest plan costs more than the budget, or than a further limit.

    Attributes:
        needed: cost of the cheapest plan, in the units of the budget or limit that is passed.
        budget: what that budget or limit allows.
    """

    def __init__(self, message: str, *, needed: int, budget: int) -> None:
        super().__init__(message)
        self.needed = needed
        self.budget = budget


class PlanMismatch(PlanError):  # noqa: N818
    """The plan was made for another model or for other weights."""


class PoorQuality(GacError):  # noqa: N818 - reads as a verdict
    """The dense model, or the compressed one, predicts text worse than is allowed."""


class NotHealed(PoorQuality):
    """No training made a compressed model better on held-back text; it stays as it is."""


class HealingError(GacError):
    """A checkpoint cannot be healed, or not as it was asked for."""


class NoPeft(HealingError):  # noqa: N818 - says what is missing
    """Adapters were asked for, and PEFT is not installed."""


class BenchError(GacError):
    """A measurement was asked for that cannot be made."""


class WorkerFailed(GacError):  # noqa: N818 - says what happened
    """A worker of an executor died, or failed at what it was given."""


class TaskError(GacError):
    """A zero-shot task is unknown, its items cannot be read, or a model cannot be scored on it."""


class CheckpointError(GacError):
    """A checkpoint folder cannot be read or written."""


class NoRoom(CheckpointError):  # noqa: N818 - says what is missing
    """A work folder may not take as much disk as a step needs."""


class ExportError(GacError):
    """A model has no such form, or an exporter or its engine failed."""


class NoExporter(ExportError):  # noqa: N818 - says what is missing
    """An export was asked for, and a package that it needs is not installed."""


class ProfileError(GacError):
    """A hardware profile is unknown or malformed."""


class NoMatplotlib(GacError):  # noqa: N818 - says what is missing
    """A picture was asked for, and matplotlib is not installed."""


class NoLmEval(GacError):  # noqa: N818 - says what is missing
    """Zero-shot tasks were asked for, and lm-eval is not installed."""
