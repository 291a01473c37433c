"""Edits: new nodes carry the right meta, replaced weights go, a fork shares and stays apart."""

import pytest
import torch
from torch import nn

from gacfx.graph import edit, ops
from gacfx.graph.notes import Note, note, sites, state
from gacfx.graph.ops import Op, module_stack
from tests.passes.graphs import annotated, ids, net, site_of, text_of

LINEAR = torch.ops.aten.linear.default


def test_a_fork_shares_every_parameter() -> None:
    gm = net()
    forked = edit.fork(gm)
    assert [n for n, _ in forked.named_parameters()] == [n for n, _ in gm.named_parameters()]
    for name, parameter in forked.named_parameters():
        assert parameter is gm.get_parameter(name)


def test_a_fork_computes_the_same_and_prints_the_same() -> None:
    gm = net()
    forked = edit.fork(gm)
    assert torch.equal(forked(ids()), gm(ids()))
    assert torch.equal(forked(ids=ids()), gm(ids()))
    assert text_of(forked) == text_of(gm)


def test_a_fork_keeps_notes_and_values_but_has_its_own_state() -> None:
    gm = annotated(net())
    forked = edit.fork(gm)
    assert [site for _, site in sites(forked)] == [site for _, site in sites(gm)]
    assert [ops.shape(n) for n in forked.graph.nodes] == [ops.shape(n) for n in gm.graph.nodes]
    assert state(forked).log == []
    assert forked.graph.output_node().meta == gm.graph.output_node().meta != {}


def test_rewriting_a_fork_leaves_the_original_alone() -> None:
    gm = annotated(net())
    text, before = text_of(gm), gm(ids())
    forked = edit.fork(gm)
    node, _ = site_of(forked, "head")
    edit.set_parameter(forked, "head.other", torch.zeros(11, 20))
    zero = edit.parameter_node(forked, "head.other", like=node)
    new = edit.Build(forked, node, "head", "Toy").call(LINEAR, (node.args[0], zero), child="other")
    edit.replace_node(forked, node, new)
    forked.graph.eliminate_dead_code()
    edit.delete_parameter(forked, "head.weight")
    forked.recompile()
    assert not forked(ids()).any()
    assert text_of(gm) == text
    assert torch.equal(gm(ids()), before)


def test_a_new_call_stands_before_its_model_and_takes_its_place_in_the_modules() -> None:
    gm = annotated(net())
    node, _ = site_of(gm, "layers.1.qkv")
    node.meta["origin"] = "theirs"
    new = edit.Build(gm, node, "layers.1.qkv", "Toy").call(LINEAR, node.args, child="down")
    assert new.next is node
    assert module_stack(new)[-3:] == (
        ("layers.1", "Layer"),
        ("layers.1.qkv", "Toy"),
        ("layers.1.qkv.down", "Linear"),
    )
    assert new.meta["origin"] == "theirs"


def test_a_new_call_inherits_custom_entries_of_others_but_no_note_and_no_value() -> None:
    gm = annotated(net())
    node, _ = site_of(gm, "layers.1.qkv")
    node.meta["custom"]["theirs"] = 1
    node.meta["example_value"] = node.meta["val"]
    assert "tensor_meta" in node.meta
    new = edit.Build(gm, node, "layers.1.qkv", "Toy").call(LINEAR, node.args, child="down")
    assert new.meta["custom"] == {"theirs": 1}
    assert note(new) == Note() and ops.value(new) is None
    assert note(node) != Note()


def test_a_parameter_is_put_at_a_new_path() -> None:
    gm = net()
    edit.set_parameter(gm, "layers.0.qkv.down.weight", torch.ones(4, 20))
    made = gm.get_parameter("layers.0.qkv.down.weight")
    assert made.shape == (4, 20) and not made.requires_grad
    assert "layers.0.qkv.down.weight" in gm.state_dict()


def test_a_parameter_is_kept_as_it_is() -> None:
    gm = net()
    bias = gm.get_parameter("layers.0.qkv.bias")
    edit.set_parameter(gm, "layers.0.qkv.up.bias", bias)
    assert gm.get_parameter("layers.0.qkv.up.bias") is bias


def test_a_deleted_parameter_is_gone_and_its_neighbours_stay() -> None:
    gm = net()
    edit.delete_parameter(gm, "layers.0.qkv.weight")
    names = [n for n, _ in gm.named_parameters()]
    assert "layers.0.qkv.weight" not in names and "layers.0.qkv.bias" in names
    with pytest.raises(AttributeError):
        edit.delete_parameter(gm, "layers.0.qkv.weight")


def test_a_parameter_on_the_module_itself_can_be_set_and_deleted() -> None:
    gm = net()
    edit.set_parameter(gm, "scale", nn.Parameter(torch.ones(1)))
    assert gm.get_parameter("scale").item() == 1
    edit.delete_parameter(gm, "scale")
    assert not hasattr(gm, "scale")


def test_replacing_sends_every_user_to_the_new_node() -> None:
    gm = net()
    old = next(n for n in gm.graph.nodes if ops.op_of(n) is Op.LINEAR)
    users = set(old.users)
    new = edit.Build(gm, old, "layers.0.qkv", "Toy").call(LINEAR, old.args, child="up")
    edit.replace_node(gm, old, new)
    assert set(new.users) == users
    assert old not in gm.graph.nodes


def test_a_buffer_is_put_at_a_new_path_and_saved() -> None:
    gm = net()
    edit.set_buffer(gm, "layers.0.qkv.order", torch.arange(20, dtype=torch.int32))
    assert gm.get_buffer("layers.0.qkv.order").dtype == torch.int32
    assert "layers.0.qkv.order" in gm.state_dict()
    assert "layers.0.qkv.order" not in dict(gm.named_parameters())
