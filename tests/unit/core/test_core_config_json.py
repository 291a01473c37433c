"""config.json with bounds: what no model can be is refused before anything is built of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gacfx.checkpoint.hf import GacfxConfig
from gacfx.checkpoint.load import load_checkpoint, load_dense
from gacfx.cli import main
from gacfx.core.config_json import MAX_BYTES, MAX_MODULES, check_sizes, read_config_json
from gacfx.core.decision import LowRank
from gacfx.errors import CheckpointError
from gacfx.tracing.skeleton import CONFIGS

FIRST = Path(__file__).parents[2] / "fixtures" / "checkpoint-format-1"


def invented(tmp_path: Path, count: int, **sizes: int) -> Path:
    """A folder with ranks, or sizes, that nobody has."""
    folder = Path(shutil.copytree(FIRST, tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text()) | sizes
    ranks = {f"model.layers.{i}.self_attn.q_proj": 2 for i in range(count)}
    config["quantization_config"]["ranks"] |= ranks
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of ``gacfx inspect``, which is also that of loading."""
    assert main(["inspect", str(folder)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    for load in (load_dense, load_checkpoint):
        with pytest.raises(CheckpointError) as error:
            load(folder)
        assert str(error.value) in line
    return line


def test_item_6_two_million_invented_ranks_are_refused_by_the_size_of_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is built, and the file is not even read: 2 million ranks are over 80 MB.
    folder = invented(tmp_path, 0)
    with (folder / "config.json").open("a", encoding="utf-8") as file:
        file.write(" " * MAX_BYTES)
    read = Path.read_text

    def no_config(path: Path, *_: Any, **__: Any) -> str:
        assert path.name != "config.json", "the file was read"
        return read(path, encoding="utf-8")

    monkeypatch.setattr(Path, "read_text", no_config)
    assert "33,554,432 at most" in refused(folder, capsys)


def test_item_6_more_ranks_than_any_model_has_layers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gacfx.core.config_json.MAX_MODULES", 30)
    folder = invented(tmp_path, 31)
    assert "gacfx ranks of 33 layers; no model has over 30" in refused(folder, capsys)


def test_item_6_plain_transformers_stops_at_the_block_itself() -> None:
    with pytest.raises(CheckpointError, match="gacfx modules of 100,001 layers"):
        GacfxConfig({str(i): LowRank(1) for i in range(MAX_MODULES + 1)})


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"hidden_size": 10**9}, "hidden_size is 1,000,000,000; no model has over 268,435,456"),
        ({"vocab_size": 10**12}, "vocab_size is 1,000,000,000,000"),
        ({"head_dim": 10**9}, "head_dim is"),
        ({"num_hidden_layers": 10**7}, "num_hidden_layers is 10,000,000; no model has over 2,000"),
    ],
)
def test_item_6_absurd_sizes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sizes: dict[str, int], message: str
) -> None:
    assert message in refused(invented(tmp_path, 0, **sizes), capsys)


@pytest.mark.parametrize(
    "innocent",
    [
        {"vocab_size_per_layer_input": 262_144},
        {"sliding_window": 2**31, "eos_token_id": 10**9, "use_cache": True},
        {"quantization_config": {"bnb_size": 10**10}},
        {"max_position_embeddings": 10**9},
    ],
)
def test_numbers_that_are_no_sizes_are_left_alone(innocent: dict[str, Any]) -> None:
    check_sizes(innocent, "here")


def test_nested_configurations_are_read() -> None:
    with pytest.raises(CheckpointError, match="here: n_layer is 3,000"):
        check_sizes({"text_config": {"n_layer": 3000}}, "here")


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.json")), ids=lambda path: path.stem)
def test_the_largest_known_models_fit(file: Path) -> None:
    assert read_config_json(file)
