"""A compression that is killed at random moments, and what becomes of it."""

import random
import shutil
import time
from pathlib import Path

from tests.processes import run, start

WORDS = ("--ratio", "0.3", "--align", "8", "--prune", "both", "--force", "--max-loss", "9")


def command(model: Path, text: Path, out: Path) -> list[str]:
    """``gacfx compress`` of a small model."""
    road = [str(model), "--calibration", str(text), "--out", str(out)]
    return ["-m", "gacfx", "compress", *road, *WORDS]


def files(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of everything in a folder."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def compressed(model: Path, text: Path, out: Path) -> dict[str, bytes]:
    """What a run writes that nobody disturbs."""
    done = run(command(model, text, out))
    assert done.returncode == 0, done.stderr
    return files(out)


def killed_once(model: Path, text: Path, out: Path, choose: random.Random) -> bool:
    """Kill a run with SIGKILL once its folder was written to so many times; whether it lived until
    then."""
    journal = out.with_name(f"{out.name}.work") / "journal.json"
    left, seen = choose.randrange(1, 60), ""
    process = start(command(model, text, out), out.parent)
    try:
        while left and process.is_alive():
            time.sleep(0.002)
            now = read(journal)
            left, seen = left - (now != seen), now
        return bool(process.is_alive())
    finally:
        process.kill()
        process.join()


def read(path: Path) -> str:
    """A text that another process may remove at any moment; empty where there is none."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def harmed(work: Path, choose: random.Random) -> str:
    """Change or delete a file of a work folder; its name, empty where there is none."""
    names = sorted(work.glob("*.safetensors"))
    if not names:
        return ""
    path = choose.choice(names)
    if choose.random() < 0.5:
        path.unlink()
    else:
        raw = bytearray(path.read_bytes())
        raw[choose.randrange(len(raw))] ^= 1
        path.write_bytes(raw)
    return path.name


def kill_runs(model: Path, text: Path, folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Kill runs so many times, harm a file after every third, and let each end in the same bytes.

    Returns:
        How many runs were killed, files harmed and runs finished.
    """
    choose, counts = random.Random(seed), {"killed": 0, "harmed": 0, "finished": 0}
    wanted = compressed(model, text, folder / "undisturbed")
    out, work = folder / "disturbed", folder / "disturbed.work"
    while counts["killed"] < kills:
        assert counts["finished"] < 10 * kills, f"runs end before they are killed: {counts}"
        for _ in range(choose.randrange(1, 4)):
            lived = killed_once(model, text, out, choose)
            counts["killed"] += lived
            if lived and counts["killed"] % 3 == 0:
                counts["harmed"] += harmed(work, choose) != ""
            if out.exists():
                break
        if not out.exists():
            compressed(model, text, out)
            assert not work.exists()
        found = files(out)
        counts["finished"] += 1
        assert found == {**wanted, **card(found)}, sorted(
            name for name in found if found[name] != wanted.get(name)
        )
        shutil.rmtree(out)
    return counts


def card(found: dict[str, bytes]) -> dict[str, bytes]:
    """The files that name their folder."""
    return {name: each for name, each in found.items() if name in ("README.md", "gacfx_files.json")}
