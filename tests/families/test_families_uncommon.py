"""Families that do something that few others do, and what becomes of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import gacfx
from gacfx.bench.steps import make_step
from gacfx.calibration.text import Corpus
from gacfx.core.search import Search
from gacfx.core.sites import Extent, Layout, Workload
from gacfx.coupling.analyse import couple
from gacfx.graph.compat import cache_argument
from gacfx.graph.left_out import remarks
from gacfx.graph.notes import matmuls, note
from gacfx.graph.pipeline import Pipeline
from gacfx.tracing.export import export_model
from gacfx.tracing.inputs import example_inputs
from tests.families.test_families_coupling import captured
from tests.families.zoo import FAMILIES, VOCAB
from tests.few import few

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
        made = getattr(transformers, config)(**{**SIZES, **more})
        return getattr(transformers, model)(made).eval()


def corpus() -> Corpus:
    """Six documents of 40 tokens."""
    draw = torch.Generator().manual_seed(0)
    return Corpus(tuple(torch.randint(3, 90, (40,), generator=draw) for _ in range(6)))


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


# -- caches that a forward does not name -----------------------------------------------------------


def granite_moe() -> Any:
    more = {"num_local_experts": 4, "num_experts_per_tok": 2}
    model = make("GraniteMoeConfig", "GraniteMoeForCausalLM", **more)
    model.set_experts_implementation("grouped_mm")
    return model


def llava() -> Any:
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vision = transformers.CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=40,
            num_hidden_layers=1,
            num_attention_heads=4,
            image_size=32,
            patch_size=8,
        )
        text = transformers.LlamaConfig(**SIZES)
        config = transformers.LlavaConfig(
            text_config=text, vision_config=vision, image_token_index=96
        )
        return transformers.LlavaForConditionalGeneration(config).eval()


class Passes(nn.Module):
    """Gives everything to the model inside, as wrappers of other packages do."""

    main_input_name = "input_ids"

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, *args: Any, **more: Any) -> Any:
        """What the model gives."""
        return self.model(*args, **more)


class Refuses(Passes):
    """Takes no argument that it does not know."""

    def forward(self, input_ids: torch.Tensor, **more: Any) -> Any:
        """What the model gives."""
        if more:
            raise TypeError(f"unexpected {sorted(more)}")
        return self.model(input_ids)


class Insists(Passes):
    """Has a cache whatever it is asked, and gives it in a tuple."""

    def forward(self, input_ids: torch.Tensor) -> Any:
        """Logits and a cache."""
        return self.model(input_ids, use_cache=True).to_tuple()


UNNAMED: dict[str, Any] = {
    "granite moe": granite_moe,
    "llava": llava,
    "passes": lambda: Passes(FAMILIES["llama"].make()),
    "refuses": lambda: Refuses(FAMILIES["llama"].make()),
    "insists": lambda: Insists(FAMILIES["llama"].make()),
}


@pytest.mark.parametrize("name", few(UNNAMED, "granite moe", "refuses", "insists"))
def test_a_model_that_does_not_name_its_cache_is_captured_without(name: str) -> None:
    model = UNNAMED[name]()
    ids = torch.arange(3, 54).reshape(3, 17)
    hooks = len(model._forward_hooks)
    configs: list[Any] = [m.config for m in model.modules() if hasattr(m, "config")]
    configs = [config for config in configs if hasattr(config, "use_cache")]
    gm = export_model(model)
    with torch.no_grad():
        got, want = gm(input_ids=ids)[0], model(ids)[0]
    torch.testing.assert_close(got, want)
    assert configs and all(config.use_cache for config in configs)
    assert len(model._forward_hooks) == hooks


def test_results_that_can_be_returned_stay_as_they_are() -> None:
    class Numbered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Linear(4, 6)

        def forward(self, x: torch.Tensor) -> dict[int, torch.Tensor]:
            return {1: self.up(x), 0: x}

    gm = export_model(Numbered(), {"x": torch.ones(3, 4)})
    assert {key: found.shape[1] for key, found in gm(x=torch.ones(3, 4)).items()} == {1: 6, 0: 4}


def test_a_model_that_does_not_name_its_cache_is_measured_with_and_without() -> None:
    model = granite_moe()
    seen = []
    model.model.register_forward_pre_hook(
        lambda _, __, told: seen.append((told["use_cache"], told.get(str(cache_argument(model))))),
        with_kwargs=True,
    )
    with torch.no_grad():
        make_step(model, Workload(2, 8, "prefill"), 0)()
        make_step(model, Workload(2, 8, "decode"), 0)()
    assert seen[0] == (False, None)
    assert [uses for uses, _ in seen[1:]] == [True, True]
    assert all(cache.get_seq_length() == 8 for _, cache in seen[1:])


# -- rotary embeddings that depend on the length ---------------------------------------------------


LONG = {"original_max_position_embeddings": 32, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
ROPES: dict[str, dict[str, Any]] = {
    "dynamic": {"factor": 2.0},
    "longrope": {"factor": 2.0, **LONG},
    "yarn": {"factor": 2.0, "original_max_position_embeddings": 32},
    "linear": {"factor": 2.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}


def assert_captured(model: Any) -> None:
    """The graph computes what the model computes, and capture leaves all numbers alone."""
    ids, more = torch.arange(3, 54).reshape(3, 17), torch.arange(3, 53)[None]
    with torch.no_grad():
        before = model(more, use_cache=False).logits
        held = model.model.rotary_emb.inv_freq.clone()
        gm = export_model(model)
        assert torch.equal(model.model.rotary_emb.inv_freq, held)
        assert torch.equal(model(more, use_cache=False).logits, before)
        torch.testing.assert_close(gm(input_ids=ids, use_cache=False)[0], model(ids).logits)


@pytest.mark.parametrize("kind", few(ROPES, "dynamic", "longrope", "yarn"))
def test_every_rotary_type_is_captured(kind: str) -> None:
    rope = {"rope_type": kind, "rope_theta": 1e4, **ROPES[kind]}
    assert_captured(make("LlamaConfig", "LlamaForCausalLM", rope_parameters=rope))


def test_a_rotary_embedding_that_has_grown_is_captured_as_it_is_for_short_text() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    model = make("LlamaConfig", "LlamaForCausalLM", rope_parameters=rope)
    with torch.no_grad():
        model(torch.arange(3, 73)[None])
    grown = model.model.rotary_emb.inv_freq.clone()
    gm = export_model(model)
    assert model.model.rotary_emb.max_seq_len_cached == 70
    assert torch.equal(model.model.rotary_emb.inv_freq, grown)
    ids = torch.arange(3, 54).reshape(3, 17)
    with torch.no_grad():
        torch.testing.assert_close(gm(input_ids=ids, use_cache=False)[0], model(ids).logits)


def test_a_family_with_a_branch_of_its_own_on_the_length_is_captured() -> None:
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 2.0, **LONG}
    model = make(
        "PhimoeConfig",
        "PhimoeForCausalLM",
        num_local_experts=4,
        num_experts_per_tok=2,
        rope_parameters={**rope, "short_mscale": 1.1, "long_mscale": 1.2},
    )
    model.set_experts_implementation("grouped_mm")
    assert export_model(model).graph.output_node() is not None


# -- linears that run without gradient -------------------------------------------------------------


DSA: dict[str, Any] = {
    "moe_intermediate_size": 40,
    "num_key_value_heads": 6,
    "q_lora_rank": 20,
    "kv_lora_rank": 22,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 10,
    "n_routed_experts": 4,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "index_n_heads": 2,
    "index_head_dim": 8,
    "index_topk": 8,
}


@pytest.mark.parametrize("by_layer", [False, True])
@pytest.mark.parametrize("prefix", few(["DeepseekV32", "GlmMoeDsa"], "DeepseekV32"))
def test_what_chooses_tokens_without_gradient_stays_dense(
    prefix: str, by_layer: bool, tmp_path: Path
) -> None:
    model = make(f"{prefix}Config", f"{prefix}ForCausalLM", **DSA)
    model.set_experts_implementation("grouped_mm")
    text = corpus()
    search, work = Search(value="two-sided"), tmp_path / "work" if by_layer else None
    plan = gacfx.plan(model, calibration=text, ratio="0.2", search=search, work=work).plan
    why = "it runs without gradient, so its loss cannot be measured"
    left = {choice.group for choice in plan.choices if choice.reason == why}
    names = ("wq_b", "wk", "weights_proj")
    assert left == {
        f"model.layers.{at}.self_attn.indexer.{name}" for at in (0, 1) for name in names
    }
    assert not left & plan.ranks.keys() and len(plan.ranks) > 5


# -- products that few families spell so -----------------------------------------------------------


def bloom() -> Any:
    import transformers

    config = transformers.BloomConfig(vocab_size=VOCAB, hidden_size=48, n_layer=2, n_head=6)
    return transformers.BloomForCausalLM(config).eval()


def xlnet() -> Any:
    import transformers

    config = transformers.XLNetConfig(vocab_size=VOCAB, d_model=48, n_layer=2, n_head=6, d_inner=88)
    return transformers.XLNetLMHeadModel(config).eval()


def mobilebert() -> Any:
    import transformers

    config = transformers.MobileBertConfig(
        vocab_size=VOCAB,
        hidden_size=48,
        num_hidden_layers=1,
        intermediate_size=88,
        embedding_size=24,
        intra_bottleneck_size=24,
    )
    return transformers.MobileBertForMaskedLM(config).eval()


def mamba() -> Any:
    sizes = {"state_size": 4, "time_step_rank": 4, "intermediate_size": 96}
    return make("MambaConfig", "MambaForCausalLM", **sizes)


COUNTED: dict[str, tuple[Any, int]] = {
    "bloom": (bloom, 0),
    "xlnet": (xlnet, 0),
    "mobilebert": (mobilebert, 0),
    "llava": (llava, 0),
    "vit": (FAMILIES["vit"].make, 0),
    # Its convolution has as many groups as channels: 2 layers x 96 channels x 20 places x 4.
    "mamba": (mamba, 2 * 3 * 2 * 96 * 20 * 4),
}


@pytest.mark.parametrize("name", COUNTED)
def test_all_flops_that_torch_counts_are_in_sites_or_not_modelled(name: str) -> None:
    made, unmodelled = COUNTED[name]
    model, run = made(), Workload(3, 17)
    model.set_attn_implementation("eager")  # torch counts no other on a CPU
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(**example_inputs(model))
    gm = export_model(model)
    Pipeline.parse("annotate-sites").run(gm)
    ours = sum(site.flops(run) for _, site in matmuls(gm))
    assert counter.get_total_flops() - ours == unmodelled
    assert bool(remarks(gm)) == bool(unmodelled)


def test_a_weight_that_is_multiplied_from_the_left_is_named() -> None:
    gm = export_model(mamba())
    Pipeline.parse("annotate-sites, select-targets").run(gm)
    (node, site), *_ = [each for each in matmuls(gm) if "dt_proj" in each[1].name]
    assert site.weight == "backbone.layers.0.mixer.dt_proj.weight"
    assert (site.k.times, site.n.times, site.m) == (4, 96, Extent(1, "token"))
    assert note(node).targeted is False


# -- products for each chunk of tokens -------------------------------------------------------------


QWEN3_NEXT: dict[str, Any] = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "moe_intermediate_size": 40,
    "shared_expert_intermediate_size": 40,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 4,
}


@pytest.mark.parametrize(
    "seq", [150, *(pytest.param(n, marks=pytest.mark.exhaustive) for n in (17, 64, 100))]
)
def test_products_for_each_chunk_grow_with_the_number_of_chunks(seq: int) -> None:
    model = make("Qwen3NextConfig", "Qwen3NextForCausalLM", **QWEN3_NEXT)
    model.set_attn_implementation("eager")
    model.set_experts_implementation("grouped_mm")  # which torch does not count
    inputs, run = example_inputs(model, 2, seq), Workload(2, seq)
    longer, counter = export_model(model, inputs), FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        longer(**inputs)
    gm = export_model(model)
    Pipeline.parse("annotate-sites").run(gm)
    own = [site for _, site in matmuls(gm) if site.layout is not Layout.EXPERTS]
    # Convolutions with as many groups as channels are not modelled: 3 places more, 4 numbers each.
    convolutions = 2 * 2 * (2 * 2 * 8 + 4 * 8) * (seq + 3) * 4
    # The one chunk of the capture hands no state on: 8 x 64 x 8 for each head.
    handed_on = (-(-seq // 64) - 1) * 2 * 2 * 4 * 8 * 64 * 8
    missed = counter.get_total_flops() - sum(site.flops(run) for site in own)
    assert missed == 3 * (convolutions + handed_on)
    mixers = {site.count.of for site in own if site.name.endswith("layers.0.linear_attn")}
    assert mixers == {"chunk"}


def test_a_chunk_that_is_begun_counts_whole_and_a_step_of_decoding_is_one() -> None:
    times = Extent(4, "chunk", 64)
    assert [times.at(Workload(2, seq)) for seq in (1, 64, 65, 640)] == [8, 8, 16, 80]
    assert times.at(Workload(2, 640, "decode")) == 8
