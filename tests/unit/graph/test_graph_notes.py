"""Notes: plain JSON on the nodes, stale when the node changed, facts derived and never stored."""

import copy
import io
import json
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Node
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from gacfx.core.dims import Dims
from gacfx.core.plan import Budget, Plan
from gacfx.core.sites import AttentionCall, AttentionSite, MatmulSite
from gacfx.core.tiers import TierPrediction
from gacfx.graph import edit
from gacfx.graph.notes import (
    Fact,
    Note,
    Refusal,
    State,
    annotate,
    drop,
    erase,
    facts,
    matmuls,
    note,
    refuse,
    sites,
    state,
    targets,
)
from tests.passes.graphs import annotated, ids, net, provenance, site_of

TIER = TierPrediction(3, "align1", "N=1107 %8==3")


def full() -> GraphModule:
    """The toy net with every field of every note filled."""
    gm = annotated(net())
    for node, _ in sites(gm):
        annotate(node, tier=TIER, latency_us=0.0)
        refuse(node, by="test", reason="no reason")
    return gm


def notes_of(gm: GraphModule) -> list[Note]:
    return [note(node) for node, _ in sites(gm)]


def plain_types(value: Any) -> set[type]:
    if isinstance(value, dict):
        return {type(value)}.union(*map(plain_types, (*value, *value.values())))
    if isinstance(value, list | tuple):
        return {type(value)}.union(*map(plain_types, value))
    return {type(value)}


def test_a_note_holds_nothing_but_plain_json_values() -> None:
    for node, _ in sites(full()):
        raw = node.meta["custom"]
        assert plain_types(raw) <= {dict, list, str, int, float, bool}
        assert json.loads(json.dumps(raw)) == raw


def test_reading_gives_back_what_was_written() -> None:
    gm = full()
    kinds = set()
    for node, site in sites(gm):
        before = node.meta["custom"]
        known = note(node)
        assert annotate(node) == known
        assert node.meta["custom"] == before
        assert (known.site, known.tier, known.latency_us) == (site, TIER, 0.0)
        kinds.add(type(site))
    assert kinds == {MatmulSite, AttentionSite}


def test_notes_and_facts_survive_a_deepcopy() -> None:
    gm = full()
    assert notes_of(copy.deepcopy(gm)) == notes_of(gm)
    assert facts(copy.deepcopy(gm)) == facts(gm)


def test_a_deepcopy_has_a_state_of_its_own() -> None:
    gm = full()
    state(copy.deepcopy(gm)).log.append("only there")
    assert "only there" not in state(gm).log


def test_notes_survive_another_export() -> None:
    gm = full()
    again = torch.export.export(gm, (), {"ids": ids()}, strict=False).module(check_guards=False)
    assert isinstance(again, GraphModule)
    assert notes_of(again) == notes_of(gm)
    assert facts(again) == facts(gm)


# torch itself warns when it reads its own archive back.
@pytest.mark.filterwarnings("ignore:.*buffer is not writable.*:UserWarning")
def test_notes_survive_saving_and_loading() -> None:
    gm = full()
    file = io.BytesIO()
    torch.export.save(torch.export.export(gm, (), {"ids": ids()}, strict=False), file)
    file.seek(0)
    loaded = torch.export.load(file).module(check_guards=False)
    assert isinstance(loaded, GraphModule)
    assert notes_of(loaded) == notes_of(gm)
    assert facts(loaded) == facts(gm)


def test_a_note_of_another_operator_reads_as_empty() -> None:
    node, _ = site_of(full(), "head")
    node.target = torch.ops.aten.mm.default
    assert note(node) == Note()


def test_a_note_of_other_shapes_reads_as_empty() -> None:
    node, _ = site_of(full(), "head")
    node.meta["val"] = node.meta["val"][:, :1]
    assert note(node) == Note()


def test_a_note_of_another_input_shape_reads_as_empty() -> None:
    node, _ = site_of(full(), "head")
    source = node.all_input_nodes[0]
    source.meta["val"] = source.meta["val"][:, :1]
    assert note(node) == Note()


def test_a_note_of_another_dtype_reads_as_empty() -> None:
    for at in ("itself", "input"):
        node, _ = site_of(full(), "head")
        cast = node if at == "itself" else node.all_input_nodes[0]
        cast.meta["val"] = cast.meta["val"].to(torch.bfloat16)
        assert note(node) == Note()


def test_notes_are_stale_once_a_graph_was_cast_and_its_values_refreshed() -> None:
    gm = copy.deepcopy(full()).to(torch.bfloat16)  # the toy net is shared by all tests
    known = [node for node, _ in sites(gm)]
    FakeTensorProp(gm, FakeTensorMode(allow_non_fake_inputs=True)).propagate(ids())
    assert known and all(note(node) == Note() for node in known)
    assert facts(gm) == frozenset()
    assert {site.dtype for _, site in sites(annotated(gm))} == {"bf16"}


def test_a_stale_note_is_written_over_and_not_mixed_with_the_new_one() -> None:
    node, site = site_of(full(), "head")
    node.meta["val"] = node.meta["val"][:, :1]
    annotate(node, site=site)
    assert note(node) == Note(site=site)


@pytest.mark.parametrize("raw", [None, 3, "text", [], {}])
def test_foreign_junk_under_our_key_reads_as_empty(raw: object) -> None:
    node, _ = site_of(full(), "head")
    node.meta["custom"] = {"gacfx": raw}
    assert note(node) == Note()


def test_custom_entries_of_others_are_kept() -> None:
    node, _ = site_of(full(), "head")
    node.meta["custom"]["theirs"] = [1]
    annotate(node, latency_us=2.5)
    assert node.meta["custom"]["theirs"] == [1]
    assert note(node).latency_us == 2.5


def test_annotating_a_copy_leaves_the_original_alone() -> None:
    gm = full()
    before = notes_of(gm)
    for node, _ in sites(edit.fork(gm)):
        annotate(node, latency_us=99.0)
    assert notes_of(gm) == before


def test_a_reason_is_recorded_once_and_in_order() -> None:
    node, _ = site_of(annotated(net()), "layers.0.qkv")
    for reason in ("first", "second", "first"):
        refuse(node, by="here", reason=reason)
    refuse(node, by="there", reason="first")
    assert note(node).refusals == (
        Refusal("here", "first"),
        Refusal("here", "second"),
        Refusal("there", "first"),
    )


def test_erasing_fields_leaves_the_others() -> None:
    node, site = site_of(full(), "head")
    erase(node, "tier", "refusals")
    assert note(node) == Note(site=site, targeted=False, latency_us=0.0)


def test_erasing_adds_no_note_where_there_is_none() -> None:
    node: Node = next(iter(net().graph.nodes))
    before = dict(node.meta)
    erase(node, "tier")
    assert node.meta == before


def test_sites_come_in_graph_order() -> None:
    gm = annotated(net())
    layer = ["qkv", "", "out"]
    names = [f"layers.{i}.{part}".rstrip(".") for i in (0, 1) for part in layer]
    assert [site.name for _, site in sites(gm)] == [*names, "head"]
    linears = [name for name in names if "q" in name or "out" in name]
    assert [site.name for _, site in matmuls(gm)] == [*linears, "head"]
    assert [site.name for _, site in targets(gm)] == linears


def test_a_bare_graph_holds_no_facts() -> None:
    assert facts(net()) == frozenset()


def test_facts_follow_from_the_notes() -> None:
    gm = full()
    assert facts(gm) == {Fact.SITES, Fact.TARGETS, Fact.TIERS, Fact.LATENCY}
    node, _ = site_of(gm, "head")
    erase(node, "latency_us")
    assert facts(gm) == {Fact.SITES, Fact.TARGETS, Fact.TIERS}
    erase(node, "tier", "targeted")
    assert facts(gm) == {Fact.SITES}
    for each, _ in list(sites(gm)):
        del each.meta["custom"]
    assert facts(gm) == frozenset()


def test_attention_needs_no_target_for_the_fact_to_hold() -> None:
    gm = annotated(net())
    node, _ = site_of(gm, "layers.0")
    assert note(node).targeted is None
    assert Fact.TARGETS in facts(gm)


def test_facts_follow_from_the_state() -> None:
    gm = net()
    about = state(gm)
    for fact, value in {
        Fact.DIMS: Dims(()),
        Fact.CURVES: {},
        Fact.CANDIDATES: {},
        Fact.PLAN: Plan((), Budget("0", "targeted", 0, 0, 0), None, provenance()),
    }.items():
        assert fact not in facts(gm)
        setattr(about, fact.value, value)
        assert fact in facts(gm)
        drop(gm, frozenset({fact}))
        assert fact not in facts(gm)


def test_dropping_a_fact_clears_what_it_is_read_from_and_nothing_else() -> None:
    gm = full()
    drop(gm, frozenset({Fact.TIERS}))
    assert facts(gm) == {Fact.SITES, Fact.TARGETS, Fact.LATENCY}
    drop(gm, frozenset({Fact.TARGETS}))
    assert facts(gm) == {Fact.SITES, Fact.LATENCY}


def test_without_sites_everything_that_was_said_of_them_is_gone() -> None:
    gm = full()
    eager = AttentionCall(mask=True, causal=False, gqa=True)
    node, _ = site_of(gm, "layers.0")
    annotate(node, eager=eager)
    drop(gm, frozenset({Fact.SITES}))
    assert facts(gm) == frozenset()
    # What capture recorded and why a site was left alone is true with or without sites.
    assert note(node) == Note(eager=eager, refusals=(Refusal("test", "no reason"),))


def test_rules_are_kept_once_in_their_order_and_void_with_the_candidates() -> None:
    about = State()
    for rule in ("b", "a", "b"):
        about.rule(rule)
    assert about.rules == ("b", "a")
    about.offer({})
    assert not about.rules


class Counted:
    """A rule that counts how often it is compared."""

    compared = 0

    def __init__(self, number: int) -> None:
        self.number = number

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return isinstance(other, Counted) and self.number == other.number


def test_a_rule_is_not_compared_with_every_other() -> None:
    about = State()
    for number in range(300):
        about.rule(Counted(number))
    assert len(about.rules) == 300 and Counted.compared < 300
