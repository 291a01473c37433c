"""A store inside a store, and stores that are emptied."""

from pathlib import Path

import torch

from gacfx.core.store import Drawer, MemoryStore, Store
from gacfx.core.work_folder import WorkFolder

ONE = {"a": torch.ones(2)}


def test_a_drawer_has_its_own_sets_alone(tmp_path: Path) -> None:
    for inside in (MemoryStore(), WorkFolder(tmp_path / "work", {"of": "this"})):
        store: Store = inside
        drawer = Drawer(store, "tails")
        store.put("moments.0", ONE)
        drawer.put("moments.0", {"b": torch.zeros(3)})
        assert drawer.keys("moments.0") == ("b",) and store.keys("moments.0") == ("a",)
        assert torch.equal(drawer.get("moments.0", "b"), torch.zeros(3))
        assert drawer.names() == ("moments.0",) and "tails.moments.0" in store.names()
        assert drawer.size("moments.0") > 0 and drawer.room() == store.room()
        drawer.put("other", ONE)
        drawer.drop("other")
        assert "other" not in drawer and "moments.0" in drawer
        drawer.clear()
        assert drawer.names() == () and store.names() == ("moments.0",)
        store.clear()
        assert store.names() == ()
