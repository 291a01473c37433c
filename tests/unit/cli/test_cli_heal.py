"""``gacfx heal``: the road, runs that are killed, and bad input that is said in one line."""

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import gacfx
from gacfx.checkpoint.save import REPORT_FILE
from gacfx.cli import main
from gacfx.core.planned import Planned
from gacfx.core.routed import Routed
from gacfx.healing.steps import Training
from tests import processes
from tests.unit.healing import patients

Capture = pytest.CaptureFixture[str]
FAST = ("--tokens", "5k", "--step-tokens", "192")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Word of a command line -> file or folder; not to be changed."""
    folder = tmp_path_factory.mktemp("places")
    small, dense = patients.folders(folder)
    other = folder / "other"
    patients.dense(seed=1).save_pretrained(other / "seed")
    patients.dense(width=64).save_pretrained(other / "wide")
    return {
        "SMALL": small,
        "DENSE": dense,
        "SEED": other / "seed",
        "WIDE": other / "wide",
        "TEXT": patients.text_file(folder / "text.txt"),
        "SHORT": patients.text_file(folder / "short.txt", 1),
        "EMPTY": patients.text_file(folder / "empty.txt", 0),
        "NOWHERE": folder / "nowhere",
    }


def command(places: dict[str, Path], out: Path, *words: object) -> list[str]:
    road = [places["SMALL"], "--against", places["DENSE"], "--calibration", places["TEXT"]]
    return ["heal", *map(str, [*road, "--out", out, *FAST, *words])]


def run(words: list[str]) -> int:
    try:
        return main(words)
    except SystemExit as stopped:
        return int(stopped.code or 0)


def refused(capfd: Capture, words: list[str]) -> tuple[int, str]:
    """Exit code and the only line of a command that fails."""
    capfd.readouterr()
    code = run(words)
    printed = capfd.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("gacfx heal: ")
    return code, str(line)


def files(folder: Path) -> dict[str, bytes]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def nats(folder: Path, text: Path, capfd: Capture) -> float:
    capfd.readouterr()
    assert main(["eval", str(folder), "--text", str(text), "--json"]) == 0
    return float(json.loads(capfd.readouterr().out)["nats_per_token"])


@pytest.fixture(scope="module")
def healed(places: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "healed"
    assert run(command(places, out)) == 0
    assert [each.name for each in out.parent.iterdir()] == ["healed"]  # the work folder is gone
    return out


def test_a_healed_folder_is_better_whole_and_loads(
    healed: Path, places: dict[str, Path], capfd: Capture
) -> None:
    assert main(["verify", str(healed)]) == 0
    before, after = (nats(each, places["TEXT"], capfd) for each in (places["SMALL"], healed))
    assert after < before - 0.002
    report = json.loads((healed / REPORT_FILE).read_text())
    assert report["a"] == 1  # what the checkpoint's report said stays
    (said,) = report["healed"]
    assert said["after"]["kl"] < said["before"]["kl"] and said["tokens"] <= 5_000
    assert f"KL to the dense model {said['before']['kl']:.4f}" in (healed / "README.md").read_text()
    model = gacfx.load(healed)[0]
    made, old = Planned.load(healed / "plan"), Planned.load(places["SMALL"] / "plan")
    assert made.plan == old.plan
    for name, factors in made.factors.items():
        layer: Any = model.get_submodule(name)
        for key, tensor in layer.tensors().items():
            assert torch.equal(tensor, factors.tensors[key]), (name, key)
            floating = tensor.is_floating_point()
            assert torch.equal(tensor, old.factors[name].tensors[key]) != floating


def test_a_healed_folder_is_healed_again_and_both_are_told(
    healed: Path, places: dict[str, Path], tmp_path: Path, capfd: Capture
) -> None:
    again = command({**places, "SMALL": healed}, tmp_path / "again", "--seed", "1", "--json")
    capfd.readouterr()
    assert run(again) == 0
    said = json.loads(capfd.readouterr().out)
    assert said.pop("seconds") > 0
    first, second = json.loads((tmp_path / "again" / REPORT_FILE).read_text())["healed"]
    assert second == said and second["before"]["kl"] == pytest.approx(first["after"]["kl"])
    assert (tmp_path / "again" / "README.md").read_text().count("| healed |") == 2


def test_what_is_shown(places: dict[str, Path], tmp_path: Path, capfd: Capture) -> None:
    capfd.readouterr()
    assert run(command(places, tmp_path / "healed", "--rate", "1e-3", "--rate", "1e30")) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "healed" and lines[1].split() == ["before", "after"]
    assert lines[2].startswith("KL to the dense model, nats/token   0.0")
    assert lines[4].startswith("perplexity")
    text = " ".join(lines)
    assert "factors and norms: 3,360 parameters changed" in text
    assert "21 steps of 192 tokens at a rate of 0.001" in text
    assert "behind the trial of each rate: 0.001: 0.0" in text and "1e+30: diverged" in text
    assert lines[-1].startswith("wrote ")


def test_nothing_better_is_said_with_code_4_and_nothing_is_written(
    places: dict[str, Path], tmp_path: Path, capfd: Capture
) -> None:
    words = command(places, tmp_path / "healed", "--rate", "0.5")
    code, line = refused(capfd, words)
    assert code == 4 and "as good as it gets here" in line and "Nothing is written" in line
    assert "--resume" not in line and not list(tmp_path.iterdir())
    words = command(places, tmp_path / "healed", "--rate", "1e30", "--rate", "1e29")
    code, line = refused(capfd, words)
    assert code == 4 and "every learning rate diverged (1e+29, 1e+30)" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is of POSIX")
@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(s, marks=pytest.mark.exhaustive) for s in range(2, 8))]
)
def test_a_killed_run_ends_with_the_same_bytes(
    seed: int, healed: Path, places: dict[str, Path], tmp_path: Path
) -> None:
    out, choose = tmp_path / "healed", random.Random(seed)
    words = ["-m", "gacfx", *command(places, out)]
    journal, left, seen = tmp_path / "healed.work" / "journal.json", choose.randrange(2, 12), ""
    process = processes.start(words, tmp_path)
    while left and process.is_alive():
        time.sleep(0.002)
        now = journal.read_text() if journal.exists() else ""
        left, seen = left - (now != seen), now
    lived = process.is_alive()
    process.kill()
    process.join()
    assert lived and journal.exists() and not out.exists()
    assert run(command(places, out, "--resume")) == 0
    assert files(out) == files(healed)
    assert not journal.parent.exists()


def test_what_stops_a_run_says_how_to_go_on(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    steps, step = [0], Training.step

    def until(training: Any) -> None:
        steps[0] += 1
        if steps[0] == 20:
            raise KeyboardInterrupt
        step(training)

    monkeypatch.setattr(Training, "step", until)
    code, line = refused(capfd, command(places, tmp_path / "healed"))
    assert code == 130 and line.endswith(f"--resume goes on from {tmp_path / 'healed.work'}")
    monkeypatch.undo()
    words = command(places, tmp_path / "healed", "--resume", "--seed", "5")
    code, line = refused(capfd, words)
    assert code == 1 and "is of other work: its setting seed is 0, and 5 is asked for" in line


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ({"SMALL": "DENSE"}, 1, "is not compressed by gacfx, so there is nothing to heal; give a"),
        ({"SMALL": "NOWHERE"}, 1, "nowhere: there is no such folder; give one of gacfx compress"),
        ({"DENSE": "SEED"}, 1, "is not what the factors were made of; load the same checkpoint"),
        ({"DENSE": "WIDE"}, 1, "load the dense model that the plan was made for; "),
        ({"DENSE": "SMALL"}, 1, "small: is compressed by gacfx itself; give the dense model"),
        ({"DENSE": "NOWHERE"}, 1, "nowhere: there is no such folder"),
        ({"TEXT": "SHORT"}, 1, "1 window of 96 tokens cannot be split into calibration and held"),
        ({"TEXT": "EMPTY"}, 1, "empty.txt: holds no text; give a file with some documents"),
        ({"TEXT": "NOWHERE"}, 1, "nowhere: unknown suffix ''; give .jsonl"),
        (("--minutes", "0"), 2, "argument --minutes: 0 is not a finite number above 0"),
        (("--minutes", "1e-6"), 1, "minutes 1e-06: 0 steps of 192 tokens fit into it on this mac"),
        (("--tokens", "0"), 1, "tokens 0: must be at least 1"),
        (("--tokens", "all"), 1, "tokens 'all': not a number such as 500k"),
        (("--tokens", "400"), 1, "tokens 400: that makes 1 steps of 192 tokens, at least 8 are"),
        (("--window", "20"), 1, "window 20: give a whole number, at least 33"),
        (("--rate", "-1"), 2, "argument --rate: -1 is not a finite number above 0"),
        (("--lora", "0"), 2, "argument --lora: 0 is not at least 1"),
        (("--resume",), 1, "healed.work: no run was stopped there; leave out --resume"),
        (("--work", "OUT"), 1, "which is written as a whole; name another"),
    ],
    ids=str,
)
def test_bad_input_is_refused(
    words: Any,
    code: int,
    says: str,
    places: dict[str, Path],
    tmp_path: Path,
    capfd: Capture,
) -> None:
    out = tmp_path / "healed"
    if isinstance(words, dict):
        given = command({**places, **{name: places[to] for name, to in words.items()}}, out)
    else:
        given = command(places, out, *(out if word == "OUT" else word for word in words))
    found, line = refused(capfd, given)
    assert (found, says in line) == (code, True), line
    assert not out.exists()


def quantized(folder: Path) -> None:
    edit_config(folder, {"quant_method": "torchao", "modules": {}})


def edit_config(folder: Path, block: dict[str, Any]) -> None:
    raw = json.loads((folder / "config.json").read_text())
    raw["quantization_config"] = block
    (folder / "config.json").write_text(json.dumps(raw))


def without_plan(folder: Path) -> None:
    shutil.rmtree(folder / "plan")


def with_nan(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def odd_report(folder: Path) -> None:
    (folder / REPORT_FILE).write_text('{"healed": [{"tokens": 1}]}')


def without_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (quantized, "is quantized ('torchao'), and rounded weights do not learn; heal before qu"),
        (without_plan, "has no plan/plan.json, which says what it was made of; copy the whole fo"),
        (with_nan, "model.norm.weight: NaN or infinite values; check the checkpoint"),
        (odd_report, "gacfx_report.json: 'healed' is no list of healings; mend or remove the file"),
        (without_tokenizer, "has no tokenizer to read the text with; copy that of the dense model"),
    ],
)
def test_a_harmed_checkpoint_is_refused(
    harm: Callable[[Path], None],
    says: str,
    places: dict[str, Path],
    tmp_path: Path,
    capfd: Capture,
) -> None:
    shutil.copytree(places["SMALL"], tmp_path / "small")
    harm(tmp_path / "small")
    words = command({**places, "SMALL": tmp_path / "small"}, tmp_path / "healed")
    code, line = refused(capfd, words)
    assert code == 1 and says in line, line
    assert not (tmp_path / "healed").exists()


def test_a_folder_that_is_there_is_not_replaced_unless_asked(
    places: dict[str, Path], tmp_path: Path, capfd: Capture
) -> None:
    out = tmp_path / "healed"
    shutil.copytree(places["SMALL"], out)
    code, line = refused(capfd, command(places, out))
    assert code == 1 and "exists and is not empty; allow overwrite (--overwrite)" in line
    code, line = refused(capfd, command({**places, "SMALL": out}, out, "--overwrite"))
    assert code == 1 and "holds the model that is read; name another folder" in line
    assert files(out) == files(places["SMALL"])
    assert run(command(places, out, "--overwrite")) == 0
    assert "healed" in json.loads((out / REPORT_FILE).read_text())


def test_text_that_the_model_does_not_know_is_refused_unless_forced(
    places: dict[str, Path], tmp_path: Path, capfd: Capture
) -> None:
    sure = patients.dense()
    with torch.no_grad():
        sure.lm_head.weight *= 20  # knows everything better
    small, dense = patients.folders(tmp_path, sure)
    there = {**places, "SMALL": small, "DENSE": dense}
    code, line = refused(capfd, command(there, tmp_path / "healed"))
    assert code == 4 and "is it the model's own tokenizer" in line
    assert run(command(there, tmp_path / "healed", "--force")) == 0


def test_a_checkpoint_with_pools_is_refused(
    places: dict[str, Path], tmp_path: Path, capfd: Capture
) -> None:
    model = patients.dense()
    name = "model.layers.0.mlp.up_proj"
    made = patients.planned(model, {name: Routed(16, 8, 0, 4)})
    small, dense = patients.folders(tmp_path, model, made)
    words = command({**places, "SMALL": small, "DENSE": dense}, tmp_path / "healed")
    code, line = refused(capfd, words)
    assert code == 1 and "prompts pick its ranks" in line


def test_a_plan_that_left_all_dense_is_refused(
    places: dict[str, Path], tmp_path: Path, capfd: Capture
) -> None:
    small, dense = patients.folders(tmp_path, made=patients.planned(patients.dense(), {}))
    words = command({**places, "SMALL": small, "DENSE": dense}, tmp_path / "healed")
    code, line = refused(capfd, words)
    assert code == 1 and "nothing to heal" in line
