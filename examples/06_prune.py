"""Prune and factorise a small trained model in one plan: narrower MLPs, fewer heads, and ranks."""

import gacfx
from gacfx import api
from gacfx.demo import MODEL


def main() -> None:
    """The same budget twice: ranks alone, then sizes of MLPs and attentions with ranks of what
    they leave. ``auto`` would try all menus and keep the best."""
    model, tokenizer = gacfx.load(MODEL)
    study = api.calibrate(
        model,
        tokenizer,
        calibration=MODEL / "calibration.jsonl",
        calibration_tokens="4k",  # a few seconds' worth
        structures=True,  # also gathers what pruning needs
    )
    profile = api.load_profile("h200")
    for prune in ("none", "both"):
        search = gacfx.Search(prune=prune)
        planned = study.plan("0.3", profile=profile, search=search)
        rise = study.measure(planned) - study.dense_nats
        print(f"--prune {prune}: {rise:.4f} nats per token above dense on held-back text")
    for choice in planned.plan.choices:
        if len(choice.weights) > 1:
            print(f"{choice.group:26} {choice.decision}")
    smaller = gacfx.apply(model, planned)
    sizes = [sum(p.numel() for p in each.parameters()) for each in (model, smaller)]
    print(f"{sizes[0]:,} -> {sizes[1]:,} parameters")


if __name__ == "__main__":
    main()
