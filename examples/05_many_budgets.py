"""Calibrate once, then plan for many budgets: each further plan takes a moment."""

import gacfx
from gacfx.api import load_profile, read_calibration
from gacfx.demo import MODEL
from gacfx.study import Study


def main() -> None:
    """Print the measured loss of aligned plans and of uniform ranks."""
    model, tokenizer = gacfx.load(MODEL)
    corpus = read_calibration(MODEL / "calibration.jsonl", model, tokenizer, "5k")
    study = Study.make(model, corpus)
    h200 = load_profile("h200")
    print(f"dense     {study.dense_nats:.4f} nats/token on held-back text")
    for ratio in ("0.1", "0.2", "0.3"):
        aligned = study.measure(study.plan(ratio, profile=h200))
        uniform = study.measure(study.upstream(ratio, profile=h200))
        print(f"ratio {ratio} gacfx {aligned:.4f}   uniform ranks {uniform:.4f}")


if __name__ == "__main__":
    main()
