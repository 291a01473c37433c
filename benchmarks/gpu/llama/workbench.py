"""A Llama with random weights on the device, and its compressed variants, one at a time.

The weights are drawn in bf16 where they stay; no copy in float32 or on the host exists. A variant
takes the place of dense linear layers, which are kept aside and come back with the next one:

    low-rank   two factors, drawn so that their product looks like the dense weights
    pruned     rows of gate and up and columns of down, copied from the dense weights
    padded     the values of the unpadded variant, and zeros
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from benchmarks.gpu.llama.architecture import Architecture
from benchmarks.gpu.llama.variants import Variant, kept_channels, variant
from gacfx.modules.low_rank import LowRankLinear

STD = 0.02
"""Of every weight, as Llama is initialised."""
ATTENTION = "sdpa-unmasked"
"""transformers' own sdpa function under a name for which transformers makes no mask.

Under its own name the model looks for packed sequences before every prefill without a cache. In
eager mode that is a wait for the GPU. In a CUDA graph and under torch.compile it cannot be decided,
so a mask is made, and attention with a mask takes another, slower kernel: three modes would compare
different attentions. The decode step hands over its own mask, as ``generate`` does.
"""


def build(
    architecture: Architecture,
    device: torch.device | str,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
) -> Any:
    """A LlamaForCausalLM in eval mode; weights normal with ``STD``, norms one.

    Args:
        architecture: sizes.
        device: weights are made there.
        seed: of the weights; the values depend on the kind of device too.
        dtype: of the weights.
    """
    from transformers import AttentionInterface, AutoModelForCausalLM
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    AttentionInterface.register(ATTENTION, sdpa_attention_forward)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config(architecture),
            dtype=dtype,
            attn_implementation=ATTENTION,
            trust_remote_code=False,
        )
    model.to_empty(device=device)
    # The frequencies of the rotary embedding are no parameters: to_empty leaves garbage in them.
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(config=model.config).to(device)
    draw = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0.0, STD, generator=draw)
            else:
                weight.fill_(1.0)
    return model.requires_grad_(False).eval()


def config(architecture: Architecture) -> Any:
    """The LlamaConfig of these sizes."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=architecture.vocabulary,
        hidden_size=architecture.hidden,
        intermediate_size=architecture.width,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        num_key_value_heads=architecture.kv_heads,
        head_dim=architecture.head_dim,
        max_position_embeddings=architecture.positions,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        tie_word_embeddings=False,
    )


class Workbench:
    """One dense model on the device and the variant that it is dressed as."""

    def __init__(self, model: Any, architecture: Architecture, *, seed: int = 0) -> None:
        self.model = model
        self.architecture = architecture
        self.variant = variant(architecture, "dense")
        self._seed = seed
        self._aside: dict[str, nn.Module] = {}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.lm_head.weight.device
        return device

    def dress(self, wanted: Variant) -> None:
        """The model becomes this variant; the one before it is freed first.

        Raises:
            RuntimeError: only a part of the layers is in the model just now.
        """
        if wanted is self.variant:
            return
        if len(self.model.model.layers) != self.architecture.layers:
            raise RuntimeError(f"{wanted.name}: change the variant outside of shallow()")
        self.undress()
        try:
            for index, name in enumerate(self.architecture.linears()):
                self._replace(wanted, index, name)
        except BaseException:
            self.undress()  # half a variant, too little memory for the rest: dense again
            raise
        self.variant = wanted

    def undress(self) -> None:
        """The model becomes dense again, bit for bit."""
        while self._aside:
            self._put(*self._aside.popitem())
        self.variant = variant(self.architecture, "dense")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # odd sizes that no other variant can use

    @contextmanager
    def shallow(self, count: int) -> Iterator[tuple[int, ...]]:
        """Inside, the model has ``count`` of its layers, evenly chosen; gives their numbers."""
        inner, chosen = self.model.model, self.architecture.spread(count)
        layers, settings = inner.layers, self.model.config
        inner.layers = nn.ModuleList([layers[i] for i in chosen])
        settings.num_hidden_layers = len(chosen)
        _number(inner.layers)
        try:
            yield chosen
        finally:
            inner.layers = layers
            settings.num_hidden_layers = len(layers)
            _number(layers)

    def resident_bytes(self) -> int:
        """Bytes of the weights that a forward pass uses."""
        return sum(weight.nbytes for weight in self.model.parameters())

    def _replace(self, wanted: Variant, index: int, name: str) -> None:
        made = self._make(wanted, index, name)
        if made is not None:
            self._aside[name] = self.model.model.get_submodule(name)
            self._put(name, made)

    def _make(self, wanted: Variant, index: int, name: str) -> nn.Module | None:
        rank = wanted.ranks[name]
        if rank is not None:
            rows, columns = self.architecture.linears()[name]
            return self._low_rank(index, rows, columns, rank, wanted.stored(rank))
        layer = int(name.split(".")[1])
        if ".mlp." not in name or wanted.widths[layer] == self.architecture.width:
            return None
        return self._pruned(name, layer, wanted)

    def _low_rank(self, index: int, rows: int, columns: int, rank: int, stored: int) -> nn.Module:
        """Its values depend on the seed, the place and the rank, not on the padding."""
        like = self.model.lm_head.weight
        draw = torch.Generator(like.device).manual_seed((self._seed + 1) * 1_000_000 + index)
        std = (STD / rank**0.5) ** 0.5  # rank products of two such numbers add up to STD
        down_RD = like.new_empty(rank, columns).normal_(0.0, std, generator=draw)
        up_OR = like.new_empty(rows, rank).normal_(0.0, std, generator=draw)
        zeros = stored - rank
        if zeros:
            down_RD, up_OR = pad(down_RD, (0, 0, 0, zeros)), pad(up_OR, (0, zeros))
        return LowRankLinear.from_factors(down_RD, up_OR).requires_grad_(False)

    def _pruned(self, name: str, layer: int, wanted: Variant) -> nn.Module:
        dense: Tensor = self.model.model.get_submodule(name).weight
        width = wanted.widths[layer]
        channels = torch.from_numpy(kept_channels(self.architecture, layer, width))
        axis = 1 if name.endswith("down_proj") else 0
        weight = dense.index_select(axis, channels.to(dense.device))
        zeros = wanted.stored(width) - width
        if zeros:
            weight = pad(weight, (0, zeros) if axis else (0, 0, 0, zeros))
        rows, columns = weight.shape
        pruned = nn.Linear(columns, rows, bias=False, device="meta")
        pruned.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
        return pruned

    def _put(self, name: str, module: nn.Module) -> None:
        parent, _, child = name.rpartition(".")
        setattr(self.model.model.get_submodule(parent), child, module)


def _number(layers: nn.ModuleList) -> None:
    """Attention finds its place in the cache by the number of its layer."""
    for index, layer in enumerate(layers):
        layer.self_attn.layer_idx = index  # type: ignore[union-attr]
