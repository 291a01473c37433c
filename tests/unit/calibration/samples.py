"""Tiny models and texts for the tests of calibration."""

from typing import Any

import torch
from torch import Tensor, nn

from gacfx.calibration.text import Corpus
from gacfx.modules.dense import is_conv1d
from tests import tiny

VOCAB = 50


def llama(dtype: torch.dtype = torch.float64) -> Any:
    """A Llama with biases whose gate and up are wide, and whose other linears are not."""
    model = tiny.llama(16, 24, vocab_size=VOCAB, attention_bias=True, initializer_range=0.3)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, generator=generator)
    return model.to(dtype)


def gpt2() -> Any:
    """A GPT-2, whose linears are Conv1D."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB, "n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2}
    model: Any = GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.3))  # type: ignore[arg-type]
    return model.double()


def linears(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> linear, without the head."""
    return {
        name: module
        for name, module in model.named_modules()
        if (isinstance(module, nn.Linear) or is_conv1d(module)) and name != "lm_head"
    }


def corpus(*lengths: int) -> Corpus:
    """Random documents."""
    generator = torch.Generator().manual_seed(1)
    return Corpus(tuple(torch.randint(0, VOCAB, (n,), generator=generator) for n in lengths))


class Toy(nn.Module):
    """Ids -> logits, with a wide linear that is used in unusual ways."""

    def __init__(self, use: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.use = use
        self.embed = nn.Embedding(VOCAB, 8)
        self.wide, self.narrow = nn.Linear(8, 12), nn.Linear(12, 8)
        self.idle = nn.Linear(8, 12)
        self.head = nn.Linear(8, VOCAB)
        self.double()

    def forward(self, ids_BT: Tensor) -> Tensor:
        x = self.embed(ids_BT)
        if self.use == "twice":
            x = x + self.narrow(self.wide(x)) + self.narrow(self.wide(x))
        elif self.use == "in place":
            x = x.detach().clone()
            first = self.wide(x).relu_()
            second = self.idle(x.mul_(2))
            x = x + self.narrow(first + second)
        elif self.use == "every second":
            routed = self.narrow(self.wide(x[:, ::2]))
            x = torch.cat([routed, x[:, 1::2]], 1)[:, : x.shape[1]]
        elif self.use in ("no grad", "inference", "chooses"):
            inference = torch.inference_mode(self.use == "inference")
            with torch.set_grad_enabled(self.use == "chooses"), inference:
                scores = self.idle(x)
            x = x + self.narrow(self.wide(x) * (scores > scores.mean()))
        logits = self.head(x)
        assert isinstance(logits, Tensor)
        return logits
