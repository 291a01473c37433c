"""``gacfx route`` with bad input: one line, the exit code that is due, and nothing is written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gacfx.checkpoint.save import REPORT_FILE
from gacfx.cli import main
from gacfx.routing import study
from tests import two_kinds

KINDS = ("low", "num")
BLOCK = ("--block", "4")
PROMPT = ("--prompt-tokens", str(two_kinds.PROMPT))
TWO = ("--text", "low=LOW", "--text", "num=NUM")
BOTH = ("--calibration", "BOTH")

Capture = pytest.CaptureFixture[str]


def run(*words: object) -> int:
    try:
        return main(["route", *(str(word) for word in words)])
    except SystemExit as stopped:
        return int(stopped.code or 0)


def refused(capfd: Capture, code: int, *words: object) -> str:
    """The only line of a command that fails."""
    capfd.readouterr()
    assert run(*words) == code
    printed = capfd.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("gacfx route")
    return str(line)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Word of a command line -> file or folder; not to be changed."""
    folder = tmp_path_factory.mktemp("places")
    found = {kind.upper(): folder / f"{kind}.txt" for kind in KINDS}
    for kind in KINDS:
        two_kinds.text_file(folder / f"{kind}.txt", two_kinds.texts(kind))
    found["BOTH"] = two_kinds.text_file(
        folder / "both.txt", [text for kind in KINDS for text in two_kinds.texts(kind)]
    )
    found["EMPTY"] = two_kinds.text_file(folder / "empty.txt", [])
    found["SHORT"] = two_kinds.text_file(folder / "short.txt", two_kinds.texts("num", size=20))
    found["ONE"] = two_kinds.text_file(folder / "one.txt", two_kinds.texts("num", count=1))
    found["DENSE"] = two_kinds.checkpoint(folder / "dense")
    found["OTHER"] = two_kinds.checkpoint(folder / "other", vocab_size=300)
    found["NOWHERE"] = folder / "no" / "where"
    found["ROUTED"], found["STATIC"] = folder / "routed", folder / "static"
    train = ["train", found["DENSE"], *BLOCK, *PROMPT, "--text", f"low={found['LOW']}", "--text"]
    assert run(*train, f"num={found['NUM']}", "--out", found["ROUTED"]) == 0
    assert run(*train, f"num={found['LOW']}", "--out", found["STATIC"]) == 0
    return found


def placed(words: tuple[str, ...], places: dict[str, Path]) -> list[str]:
    """Words with the paths that they stand for, also behind ``=``."""
    made = []
    for word in words:
        name, equals, last = word.rpartition("=")
        made.append(f"{name}{equals}{places.get(last, last)}")
    return made


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ((), 2, "give --text KIND=FILE twice or more, or --calibration with --clusters"),
        ((*TWO, *BOTH, "--clusters", "2"), 2, "give --text KIND=FILE twice or more, or --calib"),
        (("--text", "low=LOW"), 2, "one kind of text leaves nothing to choose; give --text once m"),
        (("--text", "LOW", "--text", "num=NUM"), 2, "low.txt: write NAME=FILE, as code=code.jso"),
        (("--text", "=LOW"), 2, "low.txt: write NAME=FILE"),
        (("--text", "low=LOW", "--text", "low=NUM"), 2, "num.txt: low is given twice"),
        ((*TWO, "--clusters", "2"), 2, "--clusters: goes with --calibration"),
        (BOTH, 2, "give --clusters N, the kinds to find in --calibration: 2 or more"),
        ((*BOTH, "--clusters", "1"), 2, "give --clusters N"),
        ((*BOTH, "--picks", "domain"), 2, "give --clusters N, the kinds to find in --calibration"),
        ((*BOTH, "--picks", "static", "--clusters", "1"), 2, "give --clusters N"),
        (("--text", "low=LOW", "--picks", "domain"), 2, "one kind of text leaves nothing to choo"),
        (("--picks", "static"), 2, "give --text KIND=FILE, or --calibration"),
        ((*TWO, "--picks", "oracle"), 2, "argument --picks: invalid choice: 'oracle'"),
        ((*TWO, "--steps", "9"), 2, "--steps: of trained masks; give --picks static, domain or l"),
        ((*TWO, "--picks", "linear", "--steps", "0"), 2, "argument --steps: 0 is not at least 1"),
        ((*BOTH, "--clusters", "0"), 2, "argument --clusters: 0 is not at least 1"),
        ((*BOTH, "--clusters", "11"), 1, "clusters 11: the text has 40 windows, and a kind needs"),
        ((*BOTH, "--clusters", "10"), 1, "and a kind needs 4; take fewer clusters or more text"),
        (("--text", "low=LOW", "--text", "num=EMPTY"), 1, "empty.txt: holds no text; give a file"),
        (("--text", "low=LOW", "--text", "num=SHORT"), 1, "limits; this is the text of num"),
        (("--text", "low=LOW", "--text", "num=ONE"), 1, "windows of a long one; this is the te"),
        (("--text", "low=LOW", "--text", "num=NOWHERE"), 1, "unknown suffix ''; give .jsonl"),
        ((*TWO, "--ratio", "1"), 1, "ratio 1: the share removed must be below 1"),
        ((*TWO, "--ratio=-0.1"), 1, "ratio -0.1: the share removed cannot be negative"),
        ((*TWO, "--ratio", "abc"), 1, "ratio 'abc': not a number"),
        ((*TWO, "--ratio", ""), 2, "ratio is empty; give a value or leave it out"),
        ((*TWO, "--stored", "0"), 1, "stored '0': a share of the targeted weights, such as 1.25"),
        ((*TWO, "--stored", "-1"), 1, "stored '-1': a share of the targeted weights"),
        ((*TWO, "--stored", "nan"), 1, "stored 'nan': not a number such as 1.25"),
        ((*TWO, "--stored", "abc"), 1, "stored 'abc': not a number such as 1.25"),
        ((*TWO, "--block", "0"), 2, "argument --block: 0 is not at least 1"),
        ((*TWO, "--prompt-tokens", "0"), 2, "argument --prompt-tokens: 0 is not at least 1"),
        ((*TWO, "--prompt-tokens", "95"), 1, "low: plans are judged behind the 95 tokens of a pr"),
        ((*TWO, "--method", "qr"), 1, "no method 'qr'; known: svd, asvd, svd-llm, svd-llm-v2, b"),
        ((*TWO, "--method", "llm-pruner"), 1, "method llm-pruner only prunes, and makes no ranks"),
        ((*TWO, "--gpu", "abacus"), 1, "no profile 'abacus'"),
        ((*TWO, "--skip", "*"), 1, "no weight can be compressed: left out by skip=*"),
        ((*TWO, "--calibration-tokens", "9"), 2, "tokens 9: one window has at least 33"),
    ],
    ids=lambda found: " ".join(found) if isinstance(found, tuple) else "",
)
def test_training_refuses(
    words: tuple[str, ...],
    code: int,
    says: str,
    places: dict[str, Path],
    tmp_path: Path,
    capfd: Capture,
) -> None:
    prompt = () if "--prompt-tokens" in words else PROMPT
    out = tmp_path / "small"
    given = placed(("DENSE", *words), places)
    assert says in refused(capfd, code, "train", *given, *prompt, "--out", out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--stored", "0.01", *BLOCK), "The smallest reachable is 1,856 parameters"),
        (("--ratio", "0.99", *BLOCK), "limit 'active parameters': no plan within the budget"),
        (("--block", "64"), "the smallest is 7,680 parameters, so the smallest reachable share is"),
    ],
    ids=["stored", "ratio", "block"],
)
def test_budgets_that_no_plan_keeps_name_the_block(
    words: tuple[str, ...], says: str, places: dict[str, Path], tmp_path: Path, capfd: Capture
) -> None:
    given = placed(("DENSE", *TWO), places)
    line = refused(capfd, 1, "train", *given, *PROMPT, *words, "--out", tmp_path / "small")
    block = words[words.index("--block") + 1]
    assert says in line
    assert line.endswith(
        f"; a weight has {block} ranks or a multiple of it, or stays dense: a smaller block "
        "reaches less"
    )
    assert not any(tmp_path.iterdir())


def test_weights_that_hold_no_block_stay_dense(
    places: dict[str, Path], tmp_path: Path, capfd: Capture
) -> None:
    given = placed(("DENSE", *TWO), places)
    more = ("--block", "16", "--ratio", "0.1", "--out", tmp_path / "small", "--json")
    capfd.readouterr()
    assert run("train", *given, *PROMPT, *more) == 0
    found = json.loads(capfd.readouterr().out)["routing"]
    assert found["decisions"]["dense"] == 4 and found["active_share"] <= 0.9
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    modules = config["quantization_config"]["modules"]
    assert {name.rpartition(".")[2] for name in modules} <= {"gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize(
    "words",
    [
        ("--stored", "abc"),
        ("--ratio", "2"),
        ("--method", "llm-pruner"),
        ("--prompt-tokens", "500"),
        ("--gpu", "abacus"),
    ],
    ids=" ".join,
)
def test_calibration_has_not_begun_when_it_is_refused(
    words: tuple[str, ...],
    places: dict[str, Path],
    tmp_path: Path,
    capfd: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def late(*_: object, **__: object) -> None:
        raise AssertionError("it was calibrated first")

    monkeypatch.setattr(study, "gather_texts", late)
    given = placed(("DENSE", *TWO), places)
    out = ("--out", tmp_path / "small", "--work", tmp_path / "work")
    refused(capfd, 1, "train", *given, *words, *out)
    assert not any(tmp_path.iterdir())


def test_folders_that_cannot_be_written_are_refused(
    places: dict[str, Path], tmp_path: Path, capfd: Capture
) -> None:
    given = placed(("DENSE", *TWO), places)
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    for out, more, says in (
        (places["DENSE"], (), "exists and is not empty; allow overwrite (--overwrite)"),
        (places["DENSE"], ("--overwrite",), "holds the model that is read; name another folder"),
        (places["DENSE"].parent, ("--overwrite",), "is not a checkpoint folder"),
        (full, (), "exists and is not empty"),
        (full, ("--overwrite",), "is not a checkpoint folder"),
        (places["LOW"], (), "low.txt"),
    ):
        line = refused(capfd, 1, "train", *given, *PROMPT, "--out", out, *more)
        assert says in line and str(out) in line
    assert [file.name for file in full.iterdir()] == ["mine.txt"]


def test_a_compressed_model_is_refused(
    places: dict[str, Path], tmp_path: Path, capfd: Capture
) -> None:
    for name in ("ROUTED", "STATIC"):
        given = placed((name, *TWO), places)
        line = refused(capfd, 1, "train", *given, *PROMPT, "--out", tmp_path / "small")
        assert "compressed by gacfx already; start from the dense checkpoint" in line


def test_a_work_folder_of_other_text_is_refused(
    places: dict[str, Path], tmp_path: Path, capfd: Capture
) -> None:
    dense, work = two_kinds.checkpoint(tmp_path / "dense", layers=2), tmp_path / "work"
    words = (*BLOCK, *PROMPT, "--work", work, "--out", tmp_path / "small")
    assert run("train", dense, *placed(TWO, places), *words) == 0
    turned = placed(("--text", "num=NUM", "--text", "low=LOW"), places)
    line = refused(capfd, 1, "train", dense, *turned, *words, "--overwrite")
    assert "is of other work: its text is" in line


# -- eval and bench --------------------------------------------------------------------------------

LOW = ("--text", "low=LOW")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("ROUTED",), 2, "give --text NAME=FILE (.jsonl or .txt)"),
        (("ROUTED", "--text", "LOW"), 2, "write NAME=FILE"),
        (("ROUTED", *LOW, *LOW), 2, "low is given twice"),
        (("ROUTED", "--text", "low=EMPTY"), 1, "empty.txt: holds no text"),
        (("ROUTED", "--text", "low=SHORT"), 1, "this is the text of low"),
        (("ROUTED", *LOW, "--tokens", "9"), 2, "tokens 9: one window has at least 33"),
        (("ROUTED", *LOW, "--prompt-tokens", "0"), 2, "argument --prompt-tokens: 0 is not at"),
        (("ROUTED", *LOW, "--prompt-tokens", "96"), 1, "low: no window has more than the 96 tok"),
        (("ROUTED", *LOW, "--against", "NOWHERE"), 1, "there is no such folder"),
        (("ROUTED", *LOW, "--against", "OTHER"), 1, "cannot be compared: vocabulary 258 and 300"),
        (("DENSE", *LOW), 1, "dense: has no router, so prompts pick nothing; gacfx route train"),
        (("STATIC", *LOW), 1, "static: has no router, so prompts pick nothing"),
        (("NOWHERE", *LOW), 1, "there is no such folder"),
    ],
    ids=lambda found: " ".join(found) if isinstance(found, tuple) else "",
)
def test_evaluation_refuses(
    words: tuple[str, ...], code: int, says: str, places: dict[str, Path], capfd: Capture
) -> None:
    prompt = () if "--prompt-tokens" in words else PROMPT
    assert says in refused(capfd, code, "eval", *placed(words, places), *prompt)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("DENSE",), 1, "the model has no router, so prompts pick nothing"),
        (("STATIC",), 1, "the model has no router, so prompts pick nothing"),
        (("NOWHERE",), 1, "there is no such folder"),
        (("ROUTED", "--against", "OTHER"), 1, "vocabulary 258 and 300"),
        (("ROUTED", "--seq", "96"), 1, "give at most 95"),
        (("ROUTED", "--runs", "0"), 2, "argument --runs: 0 is not at least 1"),
        (("ROUTED", "--mode", "train"), 2, "argument --mode: invalid choice"),
        (("ROUTED", "--device", "gpu9"), 1, "give cpu or cuda"),
    ],
    ids=lambda found: " ".join(found) if isinstance(found, tuple) else "",
)
def test_timing_refuses(
    words: tuple[str, ...], code: int, says: str, places: dict[str, Path], capfd: Capture
) -> None:
    device = () if "--device" in words else ("--device", "cpu")
    assert says in refused(capfd, code, "bench", *placed(words, places), *device)


# -- folders that were harmed ----------------------------------------------------------------------


def edit(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    file = folder / "model.safetensors"
    found = load_file(file)
    change(found)
    save_file(found, file, metadata={"format": "pt"})


def truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


def no_number(folder: Path) -> None:
    def change(found: dict[str, Tensor]) -> None:
        means = found["gacfx_router.means"].view(torch.float32).clone()
        means[0, 0] = torch.nan
        found["gacfx_router.means"] = means.view(torch.int32)

    edit(folder, change)


def without_means(folder: Path) -> None:
    edit(folder, lambda found: found.pop("gacfx_router.means"))


def blocks_that_are_none(folder: Path) -> None:
    edit(folder, lambda found: found["gacfx_router.table"].fill_(999))


def without_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def report_is_no_json(folder: Path) -> None:
    (folder / REPORT_FILE).write_text("{ routing")


def report_is_a_list(folder: Path) -> None:
    (folder / REPORT_FILE).write_text("[]")


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (truncated, "model.safetensors: is missing, truncated or no safetensors file"),
        (no_number, "router: means has NaN or infinite values; the file is not what was written"),
        (without_means, "gacfx_router.means: is in no file"),
        (blocks_that_are_none, "are none of routed"),
        (without_tokenizer, "has no tokenizer to read text with"),
        (report_is_no_json, "gacfx_report.json: is not JSON"),
        (report_is_a_list, "gacfx_report.json: is not a JSON table"),
    ],
)
def test_a_harmed_folder_is_refused(
    harm: Callable[[Path], None], says: str, places: dict[str, Path], tmp_path: Path, capfd: Capture
) -> None:
    folder = Path(shutil.copytree(places["ROUTED"], tmp_path / "routed"))
    harm(folder)
    assert says in refused(capfd, 1, "eval", folder, *placed(LOW, places), *PROMPT)
    assert main(["verify", str(folder)]) == 1


@pytest.mark.parametrize(
    ("report", "kind"),
    [
        (None, "kind 1"),
        ({}, "kind 1"),
        ({"routing": 5}, "kind 1"),
        ({"routing": {"kinds": "low"}}, "kind 1"),
        ({"routing": {"kinds": []}}, "kind 1"),
        ({"routing": {"kinds": ["letters"]}}, "letters"),
        ({"routing": {"kinds": [7, 8, 9]}}, "7"),
    ],
    ids=str,
)
def test_without_a_report_kinds_have_numbers(
    report: object, kind: str, places: dict[str, Path], tmp_path: Path, capfd: Capture
) -> None:
    folder = Path(shutil.copytree(places["ROUTED"], tmp_path / "routed"))
    if report is None:
        (folder / REPORT_FILE).unlink()
    else:
        (folder / REPORT_FILE).write_text(json.dumps(report))
    capfd.readouterr()
    assert run("eval", folder, *placed(LOW, places), *PROMPT, "--json") == 0
    (row,) = json.loads(capfd.readouterr().out)
    assert kind in row["kinds"] and {*row["kinds"]} <= {kind, "static prefix"}
