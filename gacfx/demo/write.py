"""What the training leaves behind: weights, tokenizer, held-out text, log and README."""

# S seq
import hashlib
import json
import math
import platform
import sys
import sysconfig
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from gacfx.core.files.atomic import replacing_folder
from gacfx.demo.build import token_ids

Entry = dict[str, Any]

LOG_FILE = "training_log.jsonl"
MIN_TOKENS = 100
MAX_BYTES = 190_000
# No space at the end: the tokenizer puts it in front of the next word.
PROMPTS = ("Return the", "This function", "If the file is not")

README = """\
# gacfx demo model

A Llama-architecture language model of {parameters:,} parameters, small enough to ship inside the
package and trained well enough to have something to lose. `gacfx demo` compresses it. Byte-level
BPE of {vocab} tokens, {layers} layers, hidden size {hidden}, {heads} query and {kv_heads} key/value
heads of {head_dim}, SwiGLU width {inner}, tied embeddings, context {context}; stored in float16.

## How it was trained

    python -m gacfx.demo.train --out gacfx/demo/model --steps {steps}{stop} --seed {seed}

The text is the prose of the Python {python} standard library: docstrings, comment blocks and the
language reference of `pydoc_data.topics`. Files with a licence notice of their own are left out.
Documents of about 1200 characters are split by the hash of their text; no paragraph occurs twice,
and a held-out document that shares more than a tenth of its 8-word phrases with the training text
is moved there. Held-out documents come from the same modules as the training documents.

AdamW with weight decay {decay} and gradients clipped at 1; a schedule of {steps} steps of {batch} x
{context} tokens, of which {done} were made: {warmup} of warmup to {lr}, flat up to {flat:.0%} of
the steps, then a cosine. One CPU thread, {minutes:.0f} minutes, torch {torch}, transformers
{transformers}. `training_log.jsonl` has every 25th step.

## Figures

| | |
|---|---|
| tokens seen in training | {tokens:,} ({epochs:.1f} times {train_tokens:,}) |
| training loss, last 200 steps | {train_loss:.3f} nats per token |
| `evaluation.jsonl` | {evaluation_loss:.3f} nats per token, perplexity {evaluation_ppl:.2f} |
| `calibration.jsonl` | {calibration_loss:.3f} nats per token, perplexity {calibration_ppl:.2f} |

Held-out losses are over each document alone, BOS in front, cut at {context} tokens, with the
float16 weights computed in float32.

## What it writes

Each prompt once greedily, once sampled at temperature 0.7:

{samples}

## Licence

Weights and tokenizer: Apache-2.0, as gacfx. The text of `calibration.jsonl` and `evaluation.jsonl`
is copied from the Python standard library, under the PSF License Version 2 (`LICENSE-PSF.txt`,
https://docs.python.org/3/license.html).

{copyright}
"""


def pick(documents: list[str], tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Documents of at least 100 tokens, in the order of their hashes, up to 190 kB of JSON."""
    lengths = dict(zip(documents, map(len, token_ids(tokenizer, documents)), strict=True))
    long = [text for text in documents if lengths[text] >= MIN_TOKENS]
    long.sort(key=lambda text: hashlib.sha256(text.encode()).hexdigest())
    ends = accumulate(len(_line({"text": text}).encode()) for text in long)
    return [text for text, end in zip(long, ends, strict=True) if end <= MAX_BYTES]


@torch.no_grad()
def held_out_loss(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, documents: list[str]
) -> float:
    """Mean loss in nats per token, each document alone and cut at the context length."""
    total, count = 0.0, 0
    for ids in token_ids(tokenizer, documents):
        ids_1S = torch.tensor([ids[: model.config.max_position_embeddings]])
        predicted = ids_1S.shape[1] - 1
        total += float(model(input_ids=ids_1S, labels=ids_1S).loss) * predicted
        count += predicted
    return total / count


@torch.no_grad()
def continuation(model: Any, tokenizer: PreTrainedTokenizerFast, prompt: str, **how: Any) -> str:
    """The prompt and up to 80 tokens that the model adds; `how` goes to `generate`."""
    torch.manual_seed(0)
    inputs = tokenizer(prompt, return_tensors="pt")
    out_1S = model.generate(**inputs, max_new_tokens=80, **how)
    return str(tokenizer.decode(out_1S[0], skip_special_tokens=True))


def write_folder(
    out: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    calibration: list[str],
    evaluation: list[str],
    log: list[Entry],
) -> None:
    """Write the whole folder, or nothing; `log` ends with the entry that holds the settings."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(out) as folder:
        _fill(folder, model, tokenizer, calibration, evaluation, log)


def _fill(
    out: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    calibration: list[str],
    evaluation: list[str],
    log: list[Entry],
) -> None:
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    model.float().eval()
    facts: Entry = {
        **log[-1],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "held_out_loss": round(held_out_loss(model, tokenizer, evaluation), 4),
        "calibration_loss": round(held_out_loss(model, tokenizer, calibration), 4),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    log = [*log[:-1], facts]
    licence = Path(sysconfig.get_path("stdlib")) / "LICENSE.txt"
    if licence.is_file():  # some distributions keep it elsewhere; the README has the address
        (out / "LICENSE-PSF.txt").write_text(licence.read_text("utf-8"), "utf-8")
    _write_lines(out / LOG_FILE, log)
    _write_lines(out / "calibration.jsonl", [{"text": text} for text in calibration])
    _write_lines(out / "evaluation.jsonl", [{"text": text} for text in evaluation])
    (out / "README.md").write_text(_readme(model, log, _samples(model, tokenizer)), "utf-8")


def _samples(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> str:
    """Continuations of the prompts as indented blocks."""
    ways: list[Entry] = [
        {"do_sample": False},
        {"do_sample": True, "temperature": 0.7, "top_p": 0.95},
    ]
    texts = [continuation(model, tokenizer, prompt, **way) for prompt in PROMPTS for way in ways]
    blocks = [
        "\n".join(f"    {line}".rstrip() for line in text.strip().splitlines()) for text in texts
    ]
    return "\n\n---\n\n".join(blocks)


def _readme(model: LlamaForCausalLM, log: list[Entry], samples: str) -> str:
    """README text from the last entries of the log."""
    facts, last, config = log[-1], log[-2], model.config
    settings = facts["settings"]
    tail = [entry["loss"] for entry in log[:-1]][-8:]
    return README.format(
        **{name: facts[name] for name in ("parameters", "python", "torch", "transformers")},
        vocab=config.vocab_size,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        inner=config.intermediate_size,
        context=config.max_position_embeddings,
        steps=settings["steps"],
        flat=settings["flat_share"],
        done=last["step"],
        stop="" if settings["stop"] is None else f" --stop {settings['stop']}",
        seed=settings["seed"],
        batch=settings["batch_size"],
        warmup=settings["warmup_steps"],
        lr=settings["lr"],
        decay=settings["weight_decay"],
        minutes=last["seconds"] / 60,
        tokens=last["tokens"],
        train_tokens=facts["train_tokens"],
        epochs=last["tokens"] / facts["train_tokens"],
        train_loss=sum(tail) / len(tail),
        evaluation_loss=facts["held_out_loss"],
        evaluation_ppl=math.exp(facts["held_out_loss"]),
        calibration_loss=facts["calibration_loss"],
        calibration_ppl=math.exp(facts["calibration_loss"]),
        samples=samples,
        copyright=sys.copyright.split("\n\n")[0],
    )


def _line(entry: Entry) -> str:
    """One line of JSON, with its line end."""
    return json.dumps(entry, ensure_ascii=False) + "\n"


def _write_lines(path: Path, entries: list[Entry]) -> None:
    path.write_text("".join(map(_line, entries)), "utf-8")
