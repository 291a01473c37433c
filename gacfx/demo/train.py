"""Train the demo model from the standard library's own prose.

    python -m gacfx.demo.train --out DIR [--minutes N | --steps N [--stop N]] [--seed 0]

The learning rate stays flat until the clock says that the fall must begin; the number of steps that
follows from it is written to the log, and a rerun with that many `--steps` has the same schedule on
any machine. A run that the clock ended early is repeated with `--stop` at its last step.
"""

# B batch, S seq
import argparse
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from gacfx.core.files.targets import check_folder
from gacfx.demo.build import Settings, build_model, token_ids, train_tokenizer
from gacfx.demo.corpus import collect, split
from gacfx.demo.write import LOG_FILE, Entry, held_out_loss, pick, write_folder
from gacfx.errors import CheckpointError

LOG_STEPS = 25
WATCH_STEPS = 500
WATCH_DOCUMENTS = 60


def windows(documents: list[list[int]], settings: Settings) -> Iterator[list[int]]:
    """Windows of `seq_len` tokens without end: shuffled documents end to end, each window from BOS.

    A document that does not fit goes on in the next window, after a BOS of its own.
    """
    order = random.Random(settings.seed)
    documents, window = list(documents), list[int]()
    while True:
        order.shuffle(documents)
        for bos, *rest in documents:
            while rest:
                room = settings.seq_len - len(window) - 1
                window += [bos, *rest[:room]]
                rest = rest[room:]
                if len(window) == settings.seq_len:
                    yield window
                    window = []


def learning_rate(step: int, steps: int | None, settings: Settings) -> float:
    """Linear warmup, flat, then a cosine to a hundredth; `steps` may be unknown until it falls."""
    warm = settings.lr * min(1.0, (step + 1) / settings.warmup_steps)
    if steps is None or step < settings.flat_share * steps:
        return warm
    progress = (step / steps - settings.flat_share) / (1 - settings.flat_share)
    return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def optimizer_for(model: nn.Module, settings: Settings) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only; a long second moment, for the batches are small."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.99), fused=True)


def train_step(
    model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, ids_BS: Tensor, lr: float
) -> float:
    """Loss in nats per token before the step; updates the model in place."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    loss = model(input_ids=ids_BS, labels=ids_BS, use_cache=False).loss
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


@dataclass
class Log:
    """The training as it is written to `training_log.jsonl`, one entry in 25 steps."""

    watch: Callable[[], float]
    """Held-out loss in nats per token, asked for now and then."""
    start: float = field(default_factory=time.monotonic)
    entries: list[Entry] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def seconds(self) -> float:
        """Wall-clock seconds since the start."""
        return time.monotonic() - self.start

    def add(self, step: int, loss: float, lr: float, tokens: int, last: bool) -> None:
        """Note a step; every 25th and the last make an entry, with the mean loss since then."""
        self.losses.append(loss)
        if step % LOG_STEPS and not last:
            return
        mean = sum(self.losses) / len(self.losses)
        entry: Entry = {"step": step, "loss": round(mean, 4), "lr": round(lr, 7), "tokens": tokens}
        if step % WATCH_STEPS == 0:
            entry["held_out_loss"] = round(self.watch(), 4)
        self.entries.append({**entry, "seconds": round(self.seconds(), 1)})
        self.losses.clear()
        print(self.entries[-1], flush=True)


def train(
    model: LlamaForCausalLM, documents: list[list[int]], settings: Settings, log: Log
) -> Settings:
    """The settings with the steps planned and made; trains in place, at most `minutes`."""
    limit_s = math.inf if settings.minutes is None else settings.minutes * 60
    optimizer, stream = optimizer_for(model, settings), windows(documents, settings)
    steps, step = settings.steps, 0
    while steps is None or step < steps:
        ids_BS = torch.tensor([next(stream) for _ in range(settings.batch_size)])
        lr = learning_rate(step, steps, settings)
        loss = train_step(model, optimizer, ids_BS, lr)
        step += 1
        if steps is None and log.seconds() > settings.flat_share * settings.time_share * limit_s:
            steps = math.ceil(step / settings.flat_share)
        over = log.seconds() > limit_s or step == settings.stop
        log.add(step, loss, lr, step * ids_BS.numel(), last=over or step == steps)
        if over:
            break
    return replace(settings, steps=steps, stop=None if step == steps else step)


def run(settings: Settings, out: Path) -> None:
    """Collect, train and write everything into the folder `out`."""
    torch.set_num_threads(1)  # sums in one order, whatever the machine
    parts = split(collect())
    tokenizer = train_tokenizer(parts.train, settings)
    documents = [[*ids, tokenizer.eos_token_id] for ids in token_ids(tokenizer, parts.train)]
    calibration, evaluation = pick(parts.calibration, tokenizer), pick(parts.evaluation, tokenizer)
    model = build_model(tokenizer, settings)
    watched = calibration[:WATCH_DOCUMENTS]
    log = Log(watch=lambda: held_out_loss(model, tokenizer, watched))
    settings = train(model, documents, settings, log)
    facts: Entry = {"settings": asdict(settings), "train_tokens": sum(map(len, documents))}
    write_folder(out, model, tokenizer, calibration, evaluation, [*log.entries, facts])


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m gacfx.demo.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--minutes", type=float, help="wall-clock limit (45, or none with --steps)")
    parser.add_argument("--steps", type=int, help="optimizer steps (as many as fit the limit)")
    parser.add_argument("--stop", type=int, help="last step, before the schedule ends")
    parser.add_argument("--seed", type=int, default=Settings.seed)
    options = parser.parse_args()
    try:
        check_folder(options.out, overwrite=True, holds=(LOG_FILE,), what="a folder of this model")
    except CheckpointError as error:  # before an hour of training
        parser.error(str(error))
    minutes = Settings.minutes if options.steps is None else None
    if options.minutes is not None:
        minutes = options.minutes
    chosen = {"steps": options.steps, "stop": options.stop, "seed": options.seed}
    run(Settings(minutes=minutes, **chosen), options.out)


if __name__ == "__main__":
    main()
