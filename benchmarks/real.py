"""A real model from disk to a compressed folder: seconds of every stage, and the most memory.

    python -m benchmarks.real --smollm2 FOLDER [--data ../shared/data] [--dtype fp32]
    python -m benchmarks.real --models llama-1.1b [--tokens 8192] [--statistics]

Each run is ``gacfx compress`` in a process of its own, with a work folder, as a user starts it; its
peak is that of the process. ``--statistics`` runs ``gacfx statistics`` alone, as decompositions of
llama-1.1b take an hour. ``bare`` is what calibration cannot do without: for every document a
forward, and a forward and a backward once more, as going layer by layer takes, and nothing else, in
the dtype that calibration computes in. ``llama-1.1b`` has TinyLlama's shape and random weights in
bfloat16: what it becomes says nothing about quality.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.memory import peak_gib

ROOT = Path(__file__).parents[1]
TEXT = "text/wikitext2_valid_tokens.txt"
LARGE = "llama-1.1b"
TOKENS = {"smollm2": 51_200, LARGE: 8_192}
RATIO = "0.2"
MOST_GIB = {"smollm2": 1.5}
"""Model -> goal for the peak; that of llama-1.1b follows from its sizes."""
MOST_SECONDS = {"smollm2": 600.0}
"""Model -> goal for calibration, planning and saving: all but the evaluation of the result."""
MOST_TIMES_BARE = 1.5
SHAPE: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32_000,
    "max_position_embeddings": 2048,
}
"""Of TinyLlama-1.1B; source: its config.json."""


@dataclass(frozen=True, slots=True)
class Row:
    """One compression, and the bare passes beside it."""

    model: str
    dtype: str
    threads: int
    tokens: int
    parameters: int
    seconds: float
    cpu_seconds: float
    peak_gib: float
    calibrate_seconds: float
    """To the end of the statistics."""
    evaluation_seconds: float
    """Of the loss of the result on held-back text, which is part of ``seconds``."""
    bare_seconds: float
    work_gib: float
    """Largest size of the work folder that was seen."""
    excess_nats: float | None
    """Rise on held-back text, as the command measured it."""
    goals: dict[str, bool]


def child(words: Sequence[str]) -> dict[str, Any]:
    """What ``benchmarks.real --child`` prints in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.real", "--child", *words]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def statistics(model: Path, text: Path, tokens: int, dtype: str, threads: int) -> dict[str, Any]:
    """Run ``gacfx statistics`` in this process and tell what it took."""
    return compress(model, text, tokens, dtype, threads, whole=False)


def compress(
    model: Path, text: Path, tokens: int, dtype: str, threads: int, *, whole: bool = True
) -> dict[str, Any]:
    """Run the command in this process and tell what it took; to the end of the statistics only
    where it is not ``whole``."""
    import torch

    from gacfx.cli import main
    from gacfx.study import Study

    evaluation, measure = [0.0], Study.measure

    def timed(*given: Any) -> float:
        start = time.perf_counter()
        found = measure(*given)
        evaluation[0] += time.perf_counter() - start
        return found

    Study.measure = timed  # type: ignore[assignment, method-assign]  # a process of its own
    torch.set_num_threads(threads)
    begin, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory(dir=model.parent) as folder:
        out, work = Path(folder) / "small", Path(folder) / "work"
        words = [str(model), "--calibration", str(text), "--force", "--work", str(work)]
        words += ["--calibration-tokens", str(tokens), "--dtype", dtype]
        more = ["--ratio", RATIO, "--out", str(out)]
        command = ["compress", *words, *more] if whole else ["statistics", *words]
        if code := main(command):
            raise SystemExit(code)
        stages = sorted(path.stat().st_mtime for path in work.glob("moments.*.safetensors"))
        report = json.loads((out / "gacfx_report.json").read_text()) if whole else {}
        size = sum(path.stat().st_size for path in work.iterdir())
    ended = time.time()
    seconds = time.perf_counter() - begin
    return {
        "seconds": seconds,
        "cpu_seconds": time.process_time() - cpu,
        "evaluation_seconds": evaluation[0],
        "calibrate_seconds": seconds - (ended - stages[-1]),
        "peak_gib": peak_gib(),
        "work_gib": size / 2**30,
        "excess_nats": (report.get("rise") or {}).get("measured"),
    }


def bare(model: Path, text: Path, tokens: int, dtype: str, threads: int) -> dict[str, Any]:
    """A forward, a forward again and a backward of the same documents, with nothing counted."""
    import torch

    from gacfx import api
    from gacfx.calibration.running import computing_dtype
    from gacfx.calibration.text import read_documents
    from gacfx.graph.ops import DTYPES

    torch.set_num_threads(threads)
    of_name = {name: each for each, name in DTYPES.items()}
    loaded, tokenizer = api.load(model, dtype=of_name[dtype])
    corpus = api.read_calibration(read_documents(text), loaded, tokenizer, tokens)
    loaded = loaded.to(computing_dtype(loaded) or loaded.dtype)
    loaded.requires_grad_(False)
    embedded = loaded.get_input_embeddings()
    begin = time.perf_counter()
    for ids_T in corpus.documents:
        with torch.no_grad():
            loaded.model(ids_T[None], use_cache=False)
        inputs = embedded(ids_T[None]).detach().requires_grad_()
        logits_TV = loaded(inputs_embeds=inputs, use_cache=False).logits[0].float()
        torch.nn.functional.cross_entropy(logits_TV, ids_T).backward()
    return {"seconds": time.perf_counter() - begin, "tokens": corpus.tokens}


def random_llama(folder: Path) -> Path:
    """TinyLlama's shape with random weights in bfloat16 and a tokenizer of bytes."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from tests.tiny import tokenizer

    torch.manual_seed(0)
    config = LlamaConfig(**SHAPE, dtype="bfloat16", bos_token_id=0, eos_token_id=1)
    made = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, trust_remote_code=False)
    made.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    os.sync()  # pages that are not yet on the disk cannot be given back
    return folder


def most_gib(name: str) -> float:
    """Goal for the peak: given, or thrice the largest decoder layer in float32, the embedding, the
    head and 1 GiB."""
    if name in MOST_GIB:
        return MOST_GIB[name]
    width, kv = SHAPE["hidden_size"], SHAPE["hidden_size"] // 8
    layer = 2 * width * width + 2 * width * kv + 3 * width * SHAPE["intermediate_size"]
    return float(3 * 4 * layer + 2 * 2 * width * SHAPE["vocab_size"]) / 2**30 + 1


def run(
    command: str, name: str, folder: Path, text: Path, tokens: int, dtype: str, threads: int
) -> Row:
    """One model; ``command`` is ``compress`` or ``statistics``."""
    from gacfx.tracing.skeleton import read_config, skeleton

    words = [str(folder), str(text), str(tokens), dtype, str(threads)]
    made, passes = child([command, *words]), child(["bare", *words])
    times = made["calibrate_seconds"] / passes["seconds"]
    goals = {
        f"peak at most {most_gib(name):.2f} GiB": made["peak_gib"] <= most_gib(name),
        f"calibration at most {MOST_TIMES_BARE} times the bare passes": times <= MOST_TIMES_BARE,
    }
    if name in MOST_SECONDS:
        goal = f"calibrated, planned and saved in at most {MOST_SECONDS[name]:.0f} s"
        goals[goal] = made["seconds"] - made["evaluation_seconds"] <= MOST_SECONDS[name]
    row = Row(
        model=name,
        dtype=dtype,
        threads=threads,
        tokens=passes["tokens"],
        parameters=sum(p.numel() for p in skeleton(read_config(folder)).parameters()),
        bare_seconds=round(passes["seconds"], 1),
        goals=goals,
        excess_nats=made.pop("excess_nats"),
        **{key: round(value, 3) for key, value in made.items()},
    )
    print(
        f"{name} {dtype}: {row.seconds:.0f} s ({row.cpu_seconds:.0f} of CPU), to the end of the "
        f"statistics {row.calibrate_seconds:.0f} s, evaluation {row.evaluation_seconds:.0f} s, "
        f"bare passes {row.bare_seconds:.0f} s, peak {row.peak_gib:.2f} GiB, work folder "
        f"{row.work_gib:.2f} GiB, excess {row.excess_nats}",
        flush=True,
    )
    return row


def main(given: Sequence[str] | None = None) -> int:
    """0 when all goals are reached, else 1."""
    default = Path(os.environ.get("GACFX_DATA", ROOT / "../shared/data"))
    parser = argparse.ArgumentParser(description="A real model from disk to a compressed folder.")
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M")
    parser.add_argument("--models", nargs="+", choices=list(TOKENS), default=["smollm2"])
    parser.add_argument("--dtype", choices=("fp32", "bf16"), nargs="+", default=["bf16", "fp32"])
    parser.add_argument("--tokens", type=int, help="instead of the model's own number")
    parser.add_argument("--statistics", action="store_true", help="and no further")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="of the results (default: results/real.json)")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    asked = parser.parse_args(given)
    if asked.child:
        what, model, text, tokens, dtype, threads = asked.child
        step = {"compress": compress, "statistics": statistics, "bare": bare}[what]
        print(json.dumps(step(Path(model), Path(text), int(tokens), dtype, int(threads))))
        return 0
    rows, text = [], asked.data / TEXT
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.models:
            tokens = asked.tokens or TOKENS[name]
            if name == "smollm2" and asked.smollm2 is None:
                parser.error("name the folder of SmolLM2-135M with --smollm2")
            model = asked.smollm2 if name == "smollm2" else random_llama(Path(folder) / name)
            for dtype in asked.dtype if name == "smollm2" else ["bf16"]:
                command = "statistics" if asked.statistics else "compress"
                rows.append(run(command, name, model, text, tokens, dtype, asked.threads))
    for row in rows:
        for goal, ok in row.goals.items():
            print(f"{'reached' if ok else 'MISSED ':7}  {row.model} {row.dtype}: {goal}")
    print(record.write("real", {"rows": [asdict(row) for row in rows]}, asked.out))
    return 0 if all(ok for row in rows for ok in row.goals.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
