"""Stores: in memory and in a folder, one contract; and a folder that was harmed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gacfx.core.store import MemoryStore, Store
from gacfx.core.work_folder import JOURNAL, WorkFolder, remove_work
from gacfx.errors import CheckpointError

KEY = {"model": "a", "seed": 0}
Make = Callable[[Path], Store]
STORES: list[Make] = [lambda _: MemoryStore(), lambda path: WorkFolder(path, KEY)]


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    square = torch.randn(3, 3, generator=random, dtype=torch.float64)
    return {"a": square, "same as a": square, "b": torch.randn(2, 5, generator=random)}


@pytest.mark.parametrize("make", STORES)
def test_a_set_is_there_as_it_was_put(make: Make, tmp_path: Path) -> None:
    store, given = make(tmp_path / "work"), tensors()
    assert "one" not in store
    store.put("one", given)
    assert "one" in store
    assert store.keys("one") == ("a", "same as a", "b")
    assert all(torch.equal(store.get("one", key), each) for key, each in given.items())
    assert all(store.get("one", key).dtype == each.dtype for key, each in given.items())


@pytest.mark.parametrize("make", STORES)
def test_a_tensor_that_was_put_twice_is_one_tensor(make: Make, tmp_path: Path) -> None:
    store = make(tmp_path / "work")
    store.put("one", tensors())
    held = store.get("one", "a")
    assert store.get("one", "same as a") is held
    assert store.get("one", "b") is not held


@pytest.mark.parametrize("make", STORES)
def test_a_set_takes_the_place_of_another_and_goes(make: Make, tmp_path: Path) -> None:
    store = make(tmp_path / "work")
    store.put("one", tensors())
    held = store.get("one", "a")
    store.put("one", {"a": tensors(1)["a"]})
    assert store.keys("one") == ("a",)
    assert torch.equal(store.get("one", "a"), tensors(1)["a"])
    assert torch.equal(held, tensors()["a"])  # whoever has the old one keeps it
    store.drop("one")
    assert "one" not in store
    store.drop("one")


@pytest.mark.parametrize("make", STORES)
def test_a_set_may_be_empty(make: Make, tmp_path: Path) -> None:
    store = make(tmp_path / "work")
    store.put("none", {})
    assert "none" in store
    assert store.keys("none") == ()


def test_a_folder_is_gone_on_with(tmp_path: Path) -> None:
    with WorkFolder(tmp_path / "work", KEY) as store:
        store.put("one", tensors())
    with WorkFolder(tmp_path / "work", KEY) as again:
        assert "one" in again
        assert torch.equal(again.get("one", "b"), tensors()["b"])


def test_equal_sets_make_equal_files(tmp_path: Path) -> None:
    for name in ("x", "y"):
        with WorkFolder(tmp_path / name, KEY) as store:
            store.put("one", tensors())
    one, other = ((tmp_path / name / "one.safetensors").read_bytes() for name in ("x", "y"))
    assert one == other


@pytest.mark.parametrize("harm", ["changed", "shorter", "gone"])
def test_a_harmed_file_is_not_there(harm: str, tmp_path: Path) -> None:
    with WorkFolder(tmp_path / "work", KEY) as store:
        store.put("one", tensors())
        store.put("two", tensors(1))
    path = tmp_path / "work" / "one.safetensors"
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(whole if harm == "changed" else whole[:-3])
    with WorkFolder(tmp_path / "work", KEY) as again:
        assert "one" not in again
        assert "two" in again
        again.put("one", tensors())
        assert "one" in again


def test_a_file_that_the_journal_does_not_name_is_not_there(tmp_path: Path) -> None:
    with WorkFolder(tmp_path / "work", KEY) as store:
        store.put("one", tensors())
        copy = tmp_path / "work" / "two.safetensors"
        copy.write_bytes((tmp_path / "work" / "one.safetensors").read_bytes())
        assert "two" not in store


def test_what_killed_writers_left_is_swept(tmp_path: Path) -> None:
    with WorkFolder(tmp_path / "work", KEY) as store:
        store.put("one", tensors())
    left = [".tmpAbC123", ".one.safetensors.3fa9c1-4711-9d2c51ab.partial"]
    for name in left:
        (tmp_path / "work" / name).write_bytes(b"half")
    WorkFolder(tmp_path / "work", KEY).close()
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == [
        "gacfx.lock",
        "journal.json",
        "one.safetensors",
    ]


def test_one_process_works_in_a_folder(tmp_path: Path) -> None:
    with (
        WorkFolder(tmp_path / "work", KEY),
        pytest.raises(CheckpointError, match="another process works there"),
    ):
        WorkFolder(tmp_path / "work", KEY)
    WorkFolder(tmp_path / "work", KEY).close()


def test_a_folder_belongs_to_one_work(tmp_path: Path) -> None:
    WorkFolder(tmp_path / "work", KEY).close()
    with pytest.raises(CheckpointError, match=r"its seed is 0, and 1 is asked for; name another"):
        WorkFolder(tmp_path / "work", {**KEY, "seed": 1})
    with pytest.raises(CheckpointError, match=r"its text is None, and 'b' is asked for"):
        WorkFolder(tmp_path / "work", {**KEY, "text": "b"})
    WorkFolder(tmp_path / "work", KEY).close()  # refusing let go of the lock


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "format"),
        ({"format": "other"}, "format"),
        ({"files": {"../out": "0" * 64}}, "names what is no file"),
        ({"files": {"one": "short"}}, "names what is no file"),
        ({"files": None}, "is no journal"),
    ],
)
def test_a_journal_that_is_none_is_refused(
    change: dict[str, object], said: str, tmp_path: Path
) -> None:
    WorkFolder(tmp_path / "work", KEY).close()
    path = tmp_path / "work" / JOURNAL
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=said):
        WorkFolder(tmp_path / "work", KEY)


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_a_journal_that_is_no_table_is_refused(text: str, tmp_path: Path) -> None:
    WorkFolder(tmp_path / "work", KEY).close()
    (tmp_path / "work" / JOURNAL).write_text(text)
    with pytest.raises(CheckpointError, match="is no journal of a work folder|it is empty"):
        WorkFolder(tmp_path / "work", KEY)


def test_another_folder_is_not_worked_in_and_not_removed(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="is not a work folder"):
        WorkFolder(tmp_path, KEY)
    remove_work(tmp_path)
    assert (tmp_path / "mine.txt").exists()


def test_a_folder_in_use_and_a_link_are_not_removed(tmp_path: Path) -> None:
    with WorkFolder(tmp_path / "work", KEY, temporary=True):
        remove_work(tmp_path / "work")
        assert (tmp_path / "work" / JOURNAL).exists()
    (tmp_path / "link").symlink_to(tmp_path / "work")
    remove_work(tmp_path / "link")
    assert (tmp_path / "work" / JOURNAL).exists()


def test_a_folder_that_was_only_begun_is_gone_on_with(tmp_path: Path) -> None:
    WorkFolder(tmp_path / "work", KEY).close()
    (tmp_path / "work" / JOURNAL).unlink()  # killed before it was first written
    with WorkFolder(tmp_path / "work", {**KEY, "seed": 1}) as store:
        assert store.key["seed"] == 1


def test_a_temporary_folder_is_removed_though_its_run_was_stopped(tmp_path: Path) -> None:
    work = tmp_path / "work"
    for _ in range(2):
        with WorkFolder(work, KEY, temporary=True) as store:
            store.put("one", {"tensor": torch.zeros(2)})
    remove_work(work)
    assert not work.exists()


@pytest.mark.parametrize("order", [(True, False), (False, True), (True, False, True)])
def test_a_folder_that_somebody_means_to_keep_stays(order: list[bool], tmp_path: Path) -> None:
    for temporary in order:
        WorkFolder(tmp_path / "work", KEY, temporary=temporary).close()
    remove_work(tmp_path / "work")
    assert (tmp_path / "work" / JOURNAL).exists()


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_removal_that_is_killed_leaves_a_folder_to_work_in(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, unlink, left = tmp_path / "work", Path.unlink, [after]

    def until(path: Path, missing_ok: bool = False) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        unlink(path, missing_ok)

    with WorkFolder(work, KEY, temporary=True) as store:
        for name in ("one", "two"):
            store.put(name, {"tensor": torch.zeros(2)})
    monkeypatch.setattr(Path, "unlink", until)
    with pytest.raises(KeyboardInterrupt):
        remove_work(work)
    monkeypatch.undo()
    with WorkFolder(work, KEY, temporary=True) as store:
        assert "one" not in store or "two" not in store
    remove_work(work)
    assert not work.exists()
