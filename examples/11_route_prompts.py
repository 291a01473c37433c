"""Prompts pick the ranks that run: code and sentences use different directions of each weight."""

import random
import tempfile
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

import gacfx
from gacfx.demo import MODEL
from gacfx.modules.routing_hooks import pick_for
from gacfx.routing.train import save, train

TOKENS = 24
"""Of a prompt, by which its kind is told; give larger models longer ones."""


def code(draw: random.Random) -> str:
    """A few short functions and loops."""
    names = ["count", "name", "value", "path", "item", "size", "text", "data"]
    forms = ["def {}({}):\n    return {}\n", "for {} in {}:\n    yield {}\n"]
    return "\n".join(draw.choice(forms).format(*draw.sample(names, 3)) for _ in range(12))


def prose(draw: random.Random) -> str:
    """A few short sentences."""
    who = ["The user", "A server", "This function", "Each module", "The system"]
    does = ["is used by the first version", "should not change", "depends on all of the others"]
    return " ".join(f"{draw.choice(who)} {draw.choice(does)}." for _ in range(16))


def main() -> None:
    """Train on texts of two kinds, save, load with plain transformers, and look at the picks."""
    draw, kinds = random.Random(0), {"code": code, "prose": prose}
    model, tokenizer = gacfx.load(MODEL)
    texts = {kind: [write(draw) for _ in range(12)] for kind, write in kinds.items()}
    # 40 % of the weights do not run for a prompt; 1.25 times as many as there were may be stored.
    made = train(model, tokenizer, texts=texts, removed="0.4", stored="1.25", prompt_tokens=TOKENS)
    said = made.report["routing"]
    print(f"{said['active_share']:.0%} run for a prompt, {said['stored_share']:.0%} are stored")
    print("nats per token:", {plan: round(nats, 4) for plan, nats in said["trials"].items()})
    with tempfile.TemporaryDirectory() as folder:
        place = save(made, Path(folder) / "small")
        served = AutoModelForCausalLM.from_pretrained(place)
        words = AutoTokenizer.from_pretrained(place)
    for text in (
        code(draw),
        prose(draw),
        "1 + 1 = 2, 2 + 2 = 4, 4 + 4 = 8, 8 + 8 = 16, 3 + 5 = 8,",
    ):
        ids = words(text, return_tensors="pt").input_ids[:, :TOKENS]
        (kind,) = pick_for(served, ids).classes
        print(f"\n{words.decode(ids[0])!r}")
        print("is", said["kinds"][kind - 1] if kind else "of no kind, and runs what serves any")
        written = served.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)
        print(f"and goes on with {words.decode(written[0, ids.shape[1] :])!r}")


if __name__ == "__main__":
    main()
