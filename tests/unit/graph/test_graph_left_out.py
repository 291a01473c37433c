"""What is in no row of an inspection is told: products without a site, parameters of no site."""

from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.fx import GraphModule

from gacfx.core.sites import Workload
from gacfx.graph.left_out import Remark, Uncovered, remarks, uncovered
from gacfx.inspection import Inspection, annotate_graph
from gacfx.report.tables import inspection_view
from gacfx.tracing.export import export_model
from tests.passes.graphs import h200, ids, llama


class Mixer(nn.Module):
    """A convolution by channels, a recurrent layer and a linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(20, 20, 3, padding=1, groups=20)
        self.up, self.down = nn.Linear(20, 24), nn.Linear(24, 20)
        self.scale = nn.Parameter(torch.ones(20))

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, 20] -> [B, S, 20]."""
        x = self.conv(x.transpose(1, 2)).transpose(1, 2) * self.scale
        out: Tensor = self.down(torch.relu(self.up(x)))
        return out


class Mixed(nn.Module):
    """Two mixers between an embedding and a head that shares its weight, and a bilinear form."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 20)
        self.layers = nn.ModuleList([Mixer(), Mixer()])
        self.form = nn.Bilinear(20, 20, 20)
        self.head = nn.Linear(20, 11, bias=False)
        self.head.weight = self.embed.weight
        self.idle = nn.Linear(3, 3)

    def forward(self, ids: Tensor) -> Tensor:
        """[B, S] -> [B, S, 11]."""
        x = self.embed(ids)
        for layer in self.layers:
            x = x + layer(x)
        out: Tensor = self.head(self.form(x, x))
        return out


def seen(gm: GraphModule) -> Inspection:
    return annotate_graph(gm, h200(), Workload(), "toy")


def mixed() -> Inspection:
    return seen(export_model(Mixed().eval(), {"ids": ids()}))


def test_products_without_a_site_are_told_with_their_layers() -> None:
    assert remarks(mixed().graph) == (
        Remark("aten.conv1d", "conv", "0-1", "a convolution in 20 groups", 2),
        Remark("aten.bilinear", "form", "", "its products are not modelled", 1),
    )


def test_parameters_of_no_site_are_told_largest_first() -> None:
    found = uncovered(mixed().graph)
    assert found == (
        Uncovered("form.weight", 8000),
        Uncovered("layers.*.conv.weight", 120),
        Uncovered("layers.*.conv.bias", 40),
        Uncovered("layers.*.scale", 40),
        Uncovered("form.bias", 20),
        *(Uncovered("idle.weight", 9), Uncovered("idle.bias", 3)),
    )


def test_of_a_llama_only_embedding_and_norms_are_in_no_site() -> None:
    found = seen(llama())
    assert found.not_modelled == ()
    assert [each.name for each in found.uncovered] == [
        "model.embed_tokens.weight",
        "model.layers.*.input_layernorm.weight",
        "model.layers.*.post_attention_layernorm.weight",
        "model.norm.weight",
    ]


def test_a_person_and_a_program_are_told_both() -> None:
    found = mixed()
    console = Console(width=200)
    with console.capture() as text:
        console.print(inspection_view(found))
    lines = text.get().splitlines()
    assert "not modelled: aten.conv1d in conv 0-1 (a convolution in 20 groups)" in lines
    share = 8232 / found.params
    assert (
        f"{share:.1%} of the parameters are in no site: form 8 k, layers.*.conv 120, "
        "layers.*.conv.bias 40, layers.*.scale 40, and 3 more"
    ) in lines
    table: dict[str, Any] = found.to_dict()
    assert [each["operator"] for each in table["not_modelled"]] == ["aten.conv1d", "aten.bilinear"]
    assert table["params_in_no_site"]["form.weight"] == 8000


def test_a_share_that_rounds_to_nothing_is_not_called_zero() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.scale = nn.Linear(200, 300), nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.up(x) * self.scale
            return out

    console = Console(width=100)
    with console.capture() as text:
        console.print(inspection_view(seen(export_model(Wide(), {"x": torch.ones(3, 200)}))))
    assert "under 0.1% of the parameters are in no site: scale 1" in text.get()
