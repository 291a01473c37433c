"""The rules of the architecture, read from the source itself.

Every rule is a function from one parsed module to the lines that break it. Beside the test that no
module breaks a rule stands one that shows each rule an offender, so that no rule sleeps.
"""

import ast
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Imports go down only. Within one row they are free, except among neighbours.
LAYERS: tuple[tuple[str, str], ...] = (
    ("talk to a person", "cli report demo"),
    (
        "the doors       ",
        "api applying verification study summary inspection pipelines replan sweep "
        "speedup explain bench zeroshot request refit gated on_text suitable evidence trials "
        "corrections dynamo exports best_plan judging upstream padding padding_parts progress "
        "work captured shards routing healing slicing comparison prevalence",
    ),
    ("verbs           ", "passes"),
    ("curves to a plan", "allocation"),
    ("neighbours      ", "tracing calibration coupling compressors hardware knapsack checkpoint"),
    ("put in place    ", "modules"),
    ("everything fx   ", "graph"),
    ("nouns           ", "core"),
    ("errors          ", "errors"),
)
NEIGHBOURS = 4
"""Row whose parts never import each other."""

KNAPSACK = (
    "solver",
    "two_budgets ilp frontier paper",
    "rules",
    "one_budget",
    "normal_form amounts",
    "certificate",
    "problem solution group limits",
    "arrays order grid work",
)
"""Within gacfx.knapsack imports go down as well, and the folders of one row are neighbours."""
_STATEMENT = 6
"""Row from which on the certificate may import, as it shares nothing with those who make plans."""

# gacfx/__init__.py and the import hook hand out names of any layer, lazily.
ROOT_MODULES = (
    *("gacfx", "gacfx.__main__", "gacfx._transformers_hook"),
    "gacfx._startup.sitecustomize",
)
BY_NAME = {
    "gacfx.graph.pipeline": "gacfx.passes",  # passes are looked up by name when a text is parsed
    "gacfx._transformers_hook": "gacfx.checkpoint.hf",
}
"""Module -> what it imports by a name in a string, the only way up."""

_PLAIN = (
    *("blocks", "config_json", "curve_file", "curves", "decision", "defaults", "dims", "files"),
    *(
        "goal",
        "kinds",
        "names",
        "offered",
        "plain",
        "plan",
        "plan_versions",
        "rise",
        "search",
        "sites",
    ),
    *("table", "tiers"),
)
NO_TORCH = (
    *("knapsack", "allocation", "hardware", "errors", "pipelines"),
    *("compressors.allocate", *(f"core.{name}" for name in _PLAIN)),
)
EXPORTS = ("tracing", "dynamo", "exports")
MEASURES = ("hardware.measure",)
"""It asks the machine itself: torch, and the only place that touches the GPU."""
TRANSFORMERS = ("checkpoint.hf", "cli", "api", "demo")
NOTES = ("graph.notes",)
MAKES_NODES = ("graph.edit",)
MODULAR = ("hardware",)
MAX_LINES = 400


@dataclass(frozen=True)
class Module:
    """One source file under the name that it is imported by."""

    name: str
    code: str

    @property
    def tree(self) -> ast.Module:
        return _parse(self.code)

    def within(self, parts: tuple[str, ...]) -> bool:
        """It is one of these parts of gacfx, or inside one."""
        return any(f"{self.name}.".startswith(f"gacfx.{part}.") for part in parts)


@cache
def _parse(code: str) -> ast.Module:
    return ast.parse(code)


@cache
def modules() -> tuple[Module, ...]:
    """Every module of the package; passes/ is gacfx.passes."""
    found = []
    for path in sorted([*ROOT.glob("gacfx/**/*.py"), *ROOT.glob("passes/**/*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[:2] == ("gacfx", "passes"):
            continue  # the same files, through the link
        parts = ("gacfx", *parts) if parts[0] == "passes" else parts
        name = ".".join(parts).removesuffix(".__init__")
        found.append(Module(name, path.read_text(encoding="utf-8")))
    return tuple(found)


@dataclass(frozen=True)
class Import:
    """One imported module or name."""

    target: str
    line: int
    lazy: bool
    """Inside a function, or for the type checker only."""


def imports(module: Module) -> Iterator[Import]:
    """All imports of a module; ``from a import b`` counts as ``a.b``."""
    lazy = {
        id(inner) for outer in ast.walk(module.tree) if _is_lazy(outer) for inner in ast.walk(outer)
    }
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield Import(name, node.lineno, id(node) in lazy)


def _is_lazy(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def dotted(node: ast.AST) -> str:
    """``torch.cuda.is_available`` for such an expression; empty for any other."""
    if isinstance(node, ast.Attribute) and (left := dotted(node.value)):
        return f"{left}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def mentions(module: Module, *prefixes: str) -> list[str]:
    """Lines that import one of these names or reach for it through an attribute."""
    found = [(i.line, i.target) for i in imports(module)]
    found += [(n.lineno, dotted(n)) for n in ast.walk(module.tree) if isinstance(n, ast.Attribute)]
    hits = {(line, f) for line, f in found if any(f"{f}.".startswith(f"{p}.") for p in prefixes)}
    return [f"line {line}: {name}" for line, name in sorted(hits)]


def row_of(part: str) -> int:
    """Row of LAYERS that a part of gacfx is in."""
    return next(i for i, (_, parts) in enumerate(LAYERS) if part in parts.split())


# -- the rules -----------------------------------------------------------------------------------


def imports_go_down(module: Module) -> list[str]:
    if module.name in ROOT_MODULES:
        return []
    own, broken = module.name.split(".")[1], []
    for found in imports(module):
        package, _, rest = found.target.partition(".")
        part = rest.partition(".")[0]
        if package != "gacfx" or part in ("", own) or part.startswith("__"):
            continue
        here, there = row_of(own), row_of(part)
        if there < here or (here == there == NEIGHBOURS):
            broken.append(f"line {found.line}: {own} imports {part}")
    return broken


def knapsack_goes_down(module: Module) -> list[str]:
    rows = {part: row for row, parts in enumerate(KNAPSACK) for part in parts.split()}
    parts = module.name.split(".")
    if parts[:2] != ["gacfx", "knapsack"] or len(parts) == 2:
        return []
    own, broken = parts[2], []
    for found in imports(module):
        target = found.target.split(".")
        if target[:2] != ["gacfx", "knapsack"] or target[2] == own:
            continue
        here, there = rows[own], rows[target[2]]
        proof = "certificate" in (own, target[2])
        beside = here == there and "." in module.name.removeprefix("gacfx.knapsack.")
        if there < here or beside or (proof and max(here, there) < _STATEMENT):
            broken.append(f"line {found.line}: {own} imports {target[2]}")
    return broken


def nothing_is_imported_by_name(module: Module) -> list[str]:
    texts = [n for n in ast.walk(module.tree) if isinstance(n, ast.Call)]
    asked = [
        n for n in texts if dotted(n.func).rpartition(".")[2] in ("import_module", "__import__")
    ]
    names = [
        (n.lineno, ast.literal_eval(n.args[0]))
        for n in asked
        if isinstance(n.args[0], ast.Constant)
    ]
    return [
        f"line {line}: {name}"
        for line, name in names
        if name.startswith("gacfx") and BY_NAME.get(module.name) != name
    ]


def integers_need_no_torch(module: Module) -> list[str]:
    if module.within(MEASURES) or not module.within(NO_TORCH):
        return []
    return mentions(module, "torch", *(f"gacfx.{name}" for name in MEASURES))


def only_tracing_exports(module: Module) -> list[str]:
    return [] if module.within(EXPORTS) else mentions(module, "torch.export", "torch._dynamo")


def only_measure_touches_the_gpu(module: Module) -> list[str]:
    return [] if module.within(MEASURES) else mentions(module, "torch.cuda")


def transformers_is_imported_late(module: Module) -> list[str]:
    if module.within(TRANSFORMERS):
        return []
    early = [i for i in imports(module) if not i.lazy and i.target.split(".")[0] == "transformers"]
    return [f"line {i.line}: {i.target}" for i in early]


def only_notes_touch_custom_meta(module: Module) -> list[str]:
    if module.within(NOTES):
        return []
    texts = [n for n in ast.walk(module.tree) if isinstance(n, ast.Constant)]
    return [f"line {n.lineno}" for n in texts if n.value == "custom"]


def only_edit_makes_nodes(module: Module) -> list[str]:
    if module.within(MAKES_NODES):
        return []
    makers = ("call_function", "call_module", "call_method", "create_node", "node_copy")
    calls = [n for n in ast.walk(module.tree) if isinstance(n, ast.Call)]
    names = [(n.lineno, n.func.attr) for n in calls if isinstance(n.func, ast.Attribute)]
    return [f"line {line}: {name}" for line, name in names if name in (*makers, "graph_copy")]


def no_alignment_outside_hardware(module: Module) -> list[str]:
    if module.within(MODULAR):
        return []
    found = [n for n in ast.walk(module.tree) if isinstance(n, ast.BinOp | ast.AugAssign)]
    return [
        f"line {n.lineno}: {ast.unparse(n)}"
        for n in found
        if isinstance(n.op, ast.Mod)
        and isinstance(right := n.right if isinstance(n, ast.BinOp) else n.value, ast.Constant)
        and isinstance(right.value, int)
        and right.value >= 4
    ]


def nothing_runs_code_from_files(module: Module) -> list[str]:
    pickles = ("pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib")
    broken = mentions(module, *pickles, "torch.load", "torch.save", "torch.jit.load")
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and dotted(node.func) in ("eval", "exec"):
            broken.append(f"line {node.lineno}: {dotted(node.func)}")
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            trusts = not (isinstance(node.value, ast.Constant) and node.value.value is False)
            broken += [f"line {node.value.lineno}: trust_remote_code"] if trusts else []
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            broken += [f"line {node.lineno}: trust_remote_code" for k, v in pairs if _trusts(k, v)]
    return broken


def _trusts(key: ast.expr | None, value: ast.expr) -> bool:
    named = isinstance(key, ast.Constant) and key.value == "trust_remote_code"
    return named and not (isinstance(value, ast.Constant) and value.value is False)


def files_are_short(module: Module) -> list[str]:
    lines = module.code.count("\n")
    return [f"{lines} lines, {MAX_LINES} at most"] if lines > MAX_LINES else []


RULES: dict[str, Callable[[Module], list[str]]] = {
    rule.__name__: rule
    for rule in (
        imports_go_down,
        knapsack_goes_down,
        nothing_is_imported_by_name,
        integers_need_no_torch,
        only_tracing_exports,
        only_measure_touches_the_gpu,
        transformers_is_imported_late,
        only_notes_touch_custom_meta,
        only_edit_makes_nodes,
        no_alignment_outside_hardware,
        nothing_runs_code_from_files,
        files_are_short,
    )
}

OFFENDERS = [
    ("imports_go_down", "core.sites", "from gacfx.passes.rewrite.clean import Clean"),
    ("imports_go_down", "core.sites", "def f():\n    from gacfx import api"),
    ("imports_go_down", "passes.rewrite.clean", "import gacfx.api"),
    ("imports_go_down", "study", "from gacfx.report import tables"),
    ("imports_go_down", "knapsack.one_budget.core", "from gacfx.hardware.gemm import aligned"),
    ("imports_go_down", "tracing.export", "if TYPE_CHECKING:\n    import gacfx.checkpoint.hf"),
    ("knapsack_goes_down", "knapsack.one_budget.core", "from gacfx.knapsack.rules import merge"),
    ("knapsack_goes_down", "knapsack.paper.dp", "from gacfx.knapsack.ilp.table import Table"),
    ("knapsack_goes_down", "knapsack.solver", "from gacfx.knapsack.certificate.check import check"),
    ("knapsack_goes_down", "knapsack.certificate.check", "from gacfx.knapsack.ilp import core"),
    ("nothing_is_imported_by_name", "core.sites", "import_module('gacfx.api')"),
    ("nothing_is_imported_by_name", "graph.pipeline", "importlib.import_module('gacfx.api')"),
    ("integers_need_no_torch", "knapsack.one_budget.core", "def f():\n    import torch"),
    ("integers_need_no_torch", "core.plan", "from torch import Tensor"),
    ("integers_need_no_torch", "core.decision", "def f():\n    from torch import Tensor"),
    ("integers_need_no_torch", "allocation.offers", "import torch"),
    ("integers_need_no_torch", "hardware.gemm", "import torch"),
    ("integers_need_no_torch", "hardware.gemm", "from gacfx.hardware.measure import timing"),
    ("only_tracing_exports", "api", "import torch\ntorch.export.export(m, ())"),
    ("only_tracing_exports", "passes.rewrite.clean", "from torch import export"),
    ("only_tracing_exports", "graph.ops", "torch._dynamo.reset()"),
    ("only_measure_touches_the_gpu", "hardware.gemm", "torch.cuda.is_available()"),
    ("only_measure_touches_the_gpu", "bench.run", "def f():\n    torch.cuda.empty_cache()"),
    ("transformers_is_imported_late", "tracing.skeleton", "import transformers"),
    ("transformers_is_imported_late", "study", "from transformers.utils import logging"),
    ("only_notes_touch_custom_meta", "tracing.export", "node.meta['custom']"),
    ("only_notes_touch_custom_meta", "passes.verify.x", "node.meta.get('custom', {})"),
    ("only_edit_makes_nodes", "passes.rewrite.x", "gm.graph.call_function(f)"),
    ("only_edit_makes_nodes", "tracing.export", "graph.create_node('get_attr', 'w')"),
    ("no_alignment_outside_hardware", "passes.x", "rank % 8"),
    ("no_alignment_outside_hardware", "core.curves", "rank %= 16"),
    ("nothing_runs_code_from_files", "checkpoint.load", "import pickle"),
    ("nothing_runs_code_from_files", "checkpoint.load", "def f():\n    torch.load(path)"),
    ("nothing_runs_code_from_files", "cli", "eval(text)"),
    ("nothing_runs_code_from_files", "api", "load(x, trust_remote_code=True)"),
    ("nothing_runs_code_from_files", "api", "load(x, trust_remote_code=flag)"),
    ("nothing_runs_code_from_files", "api", "kwargs = {'trust_remote_code': True}"),
    ("files_are_short", "core.x", "pass\n" * 401),
]

INNOCENT = [
    (
        "imports_go_down",
        "passes.x",
        "from gacfx.graph import edit\nfrom gacfx.hardware import gemm",
    ),
    ("imports_go_down", "study", "import gacfx\nfrom gacfx import pipelines, __version__"),
    ("imports_go_down", "tracing.export", "from gacfx.tracing.attention import record_attention"),
    ("knapsack_goes_down", "knapsack.paper.dp", "from gacfx.knapsack.problem import Problem"),
    ("knapsack_goes_down", "knapsack.problem", "from gacfx.knapsack.limits import Limit"),
    ("only_tracing_exports", "tracing.export", "torch.export.export(m, ())"),
    ("integers_need_no_torch", "hardware.measure.timing", "import torch"),
    ("integers_need_no_torch", "hardware.measure.cases.gemm", "import torch"),
    ("only_measure_touches_the_gpu", "hardware.measure.timing", "torch.cuda.synchronize()"),
    ("transformers_is_imported_late", "study", "def f():\n    import transformers"),
    ("transformers_is_imported_late", "study", "if TYPE_CHECKING:\n    import transformers"),
    ("only_edit_makes_nodes", "passes.x", "node.op == 'call_function'"),
    ("no_alignment_outside_hardware", "passes.x", "rank % unit, '%s %d' % (a, 8), n % 2"),
    ("nothing_runs_code_from_files", "api", "model.eval(); load(x, trust_remote_code=False)"),
]


@pytest.mark.parametrize("rule", RULES)
def test_no_module_breaks_the_rule(rule: str) -> None:
    broken = [f"{module.name} {line}" for module in modules() for line in RULES[rule](module)]
    assert broken == []


@pytest.mark.parametrize(("rule", "name", "code"), OFFENDERS)
def test_the_rule_sees_an_offender(rule: str, name: str, code: str) -> None:
    assert RULES[rule](Module(f"gacfx.{name}", code))


@pytest.mark.parametrize(("rule", "name", "code"), INNOCENT)
def test_the_rule_leaves_the_innocent_alone(rule: str, name: str, code: str) -> None:
    assert RULES[rule](Module(f"gacfx.{name}", code)) == []


def test_every_rule_has_an_offender() -> None:
    assert {rule for rule, _, _ in OFFENDERS} == RULES.keys()


def test_every_part_of_the_package_has_its_layer() -> None:
    parts = {module.name.split(".")[1] for module in modules() if module.name not in ROOT_MODULES}
    listed = [part for _, row in LAYERS for part in row.split()]
    assert parts <= set(listed) and len(listed) == len(set(listed))


# -- what the source does not show ---------------------------------------------------------------


def loaded(code: str, *suspects: str) -> list[str]:
    """Which of ``suspects`` a fresh interpreter has loaded after running ``code``."""
    script = f"{code}\nimport sys\nprint(*[m for m in {suspects!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_importing_gacfx_is_light() -> None:
    assert loaded("import gacfx", "torch", "transformers", "numpy", "pydantic", "rich") == []


def test_integers_load_no_torch_through_anything_they_import() -> None:
    names = [f"gacfx.{name}" for name in NO_TORCH]
    assert loaded(f"import {', '.join(names)}", "torch", "transformers", "pulp", "pydantic") == []


def test_measuring_needs_torch_only_and_its_records_not_even_that() -> None:
    heavy = ("transformers", "pulp", "pydantic", "rich")
    parts = "gacfx.hardware.measure.run, gacfx.hardware.measure.parts.dispatch"
    assert loaded(f"import {parts}", "torch", *heavy) == ["torch"]
    records = "gacfx.hardware.measure.journal, gacfx.hardware.measure.times"
    assert loaded(f"import {records}, gacfx.hardware.kernel_names", "torch", *heavy) == []


def test_asking_the_command_line_for_help_is_light() -> None:
    code = "from gacfx.cli import parser\nparser()"
    assert loaded(code, "torch", "transformers", "rich") == []


def test_a_heavy_import_would_be_seen() -> None:
    assert loaded("import gacfx.core.curves", "torch", "numpy") == ["numpy"]


def test_the_passes_are_the_files_at_the_root() -> None:
    linked, own = ROOT / "gacfx" / "passes", ROOT / "passes"
    assert linked.is_symlink() and linked.readlink() == Path("..") / "passes"
    assert linked.samefile(own)


def test_passes_cannot_be_imported_by_the_name_of_their_folder() -> None:
    with pytest.raises(ImportError, match="import these passes as gacfx.passes"):
        importlib.import_module("passes")
