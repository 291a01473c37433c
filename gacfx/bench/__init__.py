"""How fast a checkpoint is on this machine, now, and how many times faster than the dense one.

model, dense = read_models(["small", "path/to/model"])
print(bench(model, dense).to_dict()["cells"])

The two are measured in turn in one process, and their ratio is taken round by round, because
machines are noisy. GPU figures elsewhere in gacfx are forecasts; these are measurements.
"""

from gacfx.bench.result import Bench, Cell, Machine
from gacfx.bench.run import bench
from gacfx.bench.setting import Setting
from gacfx.bench.sides import Side, read_models
from gacfx.hardware.measure.interleave import Effort

__all__ = ["Bench", "Cell", "Effort", "Machine", "Setting", "Side", "bench", "read_models"]
