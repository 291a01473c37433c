"""Families that do something that few others do, and what becomes of them."""

from typing import Any

import torch
from torch import nn

from gacfx.coupling.analyse import couple
from gacfx.tracing.export import export_model
from tests.families.test_families_coupling import captured
from tests.families.zoo import FAMILIES, VOCAB

SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 88,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def make(config: str, model: str, **more: Any) -> Any:
    """A random model in eval mode."""
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(transformers, model)(getattr(transformers, config)(**SIZES, **more)).eval()


# -- norms of torch itself -------------------------------------------------------------------------


def test_norms_of_torch_couple_what_those_of_transformers_do() -> None:
    model = FAMILIES["llama"].make()
    for name, module in list(model.named_modules()):
        if type(module).__name__ == "LlamaRMSNorm":
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, nn.RMSNorm(48, eps=1e-6))
    dims = couple(export_model(model))
    usual = captured("llama").dims
    assert (dims.axes, dims.notes) == (usual.axes, ())
    assert [dim.frozen for dim in dims.dims] == [dim.frozen for dim in usual.dims]


def test_norms_of_torch_inside_of_a_family() -> None:
    dims = couple(export_model(make("DiffLlamaConfig", "DiffLlamaForCausalLM", head_dim=8)))
    assert not [line for line in dims.notes if "norm" in line]
    assert {dim.frozen for dim in dims.dims if dim.size in (48, 88)} == {""}
