"""What inductor calls in the end, for those who compile with inductor itself.

    torch._inductor.config.post_grad_custom_post_pass = gacfx.InductorReport("graphs.json")
    model = torch.compile(model)

The pass reads a graph when inductor's own passes are through, so its sizes are those after
inductor's padding, and its attention is the kernel that torch chose. It never changes the graph.
"""

from hashlib import sha256
from pathlib import Path
from typing import Any

from torch._inductor.custom_graph_pass import CustomGraphPass
from torch.fx import Graph

from gacfx.core.defaults import GPU
from gacfx.core.surroundings import one_at_a_time
from gacfx.dynamo.options import Options
from gacfx.dynamo.report import Report
from gacfx.dynamo.sources import source_digest
from gacfx.dynamo.weights import is_backward, with_names
from gacfx.errors import PipelineError
from gacfx.hardware.profile import Profile, load_profile


class InductorReport(CustomGraphPass):
    """A pass of inductor that writes what each graph calls, in the form of the backend's report.

    A graph that inductor finds in its cache is not compiled again, and the pass does not see it:
    ``cached=False`` turns that cache off. torch 2.13 takes a list of passes at this place, older
    ones a single pass. vLLM takes passes of a class of its own there, and
    ``CallableInductorPass(report, report.uuid())`` makes one of this; it was not run there.

    No rows are gradients of attention, and products that inductor packs for a CPU (``freezing``).
    """

    def __init__(self, path: str | Path, gpu: str | Profile = GPU, *, cached: bool = True) -> None:
        """
        Args:
            path: a .json file that is written anew for each graph.
            gpu: whose tiers and times.
            cached: compiled graphs may come from inductor's cache, and then are not reported.

        Raises:
            PipelineError: the path names no .json file.
            ProfileError: there is no such profile.
        """
        if not isinstance(path, str | Path):
            raise PipelineError(f"path={path!r}: give the path of a .json file")
        options = Options.of({"report": path, "gpu": gpu})
        self._report, self._cached = Report(options), cached
        self._asked = (str(Path(path).expanduser().absolute()), repr(load_profile(gpu)))

    def __call__(self, graph: Graph) -> None:
        """Reports a graph that is about to be compiled.

        Raises:
            CheckpointError: the file cannot be written.
            ProfileError: the GPU cannot multiply the model's dtype.
        """
        what = "backward graph" if is_backward(graph) else "graph"
        with one_at_a_time():
            self._report.add(with_names(graph), None, what)

    def uuid(self) -> Any | None:
        """Tells inductor's cache this report from others: sources of gacfx, profile and path."""
        if not self._cached:
            return None
        return sha256("\n".join((source_digest(), *self._asked)).encode()).hexdigest()
