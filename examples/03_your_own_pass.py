"""Write a pass of your own, put it into a pipeline, and read what the passes found."""

from dataclasses import dataclass

from torch.fx import GraphModule

import gacfx
from gacfx.demo import MODEL
from gacfx.graph.gacpass import GacPass, register
from gacfx.graph.notes import Fact, matmuls, refuse


@register
@dataclass(frozen=True)
class FlagNarrow(GacPass):
    """Say which matmuls have fewer output columns than a tile."""

    name = "flag-narrow"
    needs = frozenset({Fact.SITES})

    least: int = 128
    """Columns of a tile."""

    def run(self, gm: GraphModule) -> bool:
        for node, site in matmuls(gm):
            if site.n.times < self.least:
                refuse(node, by=self.name, reason=f"N={site.n.times} is less than {self.least}")
        return False


def main() -> None:
    """Run it after annotate-sites; the pipeline is text that prints back to itself."""
    model, _ = gacfx.load(MODEL)
    graph = gacfx.capture(model)
    pipeline = gacfx.Pipeline.parse("annotate-sites,flag-narrow{least=96}")
    pipeline.run(graph)
    print(pipeline)
    from gacfx.graph.notes import note

    for node, site in list(matmuls(graph))[:8]:
        print(site.name, "|", "; ".join(r.reason for r in note(node).refusals) or "wide enough")


if __name__ == "__main__":
    main()
