"""The router in config.json: sizes that cannot be, and versions that have none."""

import json
from typing import Any

import pytest

from gacfx.checkpoint.hf import GacfxConfig
from gacfx.core.config_json import check_sizes, read_router, version_for
from gacfx.core.decision import Decision, LowRank
from gacfx.core.kinds import write_decision
from gacfx.core.pruning import Sliced
from gacfx.core.router_shape import RouterShape, read_router_shape
from gacfx.errors import CheckpointError

SHAPE = RouterShape("classes", 64, 8, 3, 4)
RAW: dict[str, Any] = {**SHAPE.to_dict()}
POOLS: dict[str, Decision] = {"a.b": LowRank(3)}


def block(**changes: Any) -> dict[str, Any]:
    modules = {name: write_decision(each) for name, each in POOLS.items()}
    made = {"quant_method": "gacfx", "format_version": 4, "modules": modules, "router": RAW}
    return {name: each for name, each in (made | changes).items() if each != "left out"}


@pytest.mark.parametrize(
    "shape", [SHAPE, RouterShape("scores", 64, 64), RouterShape("scores", 1, 1)]
)
def test_it_reads_what_it_wrote(shape: RouterShape) -> None:
    raw = json.loads(json.dumps(shape.to_dict()))
    assert read_router_shape(raw) == shape
    assert read_router(block(router=raw)) == shape


BAD: list[tuple[Any, str]] = [
    ([], r"router: \[\] is no table"),
    ("classes", "router: 'classes' is no table"),
    (7, "router: 7 is no table"),
    ({}, "router: field 'classes' is missing or unknown"),
    ({**RAW, "colour": 1}, "router: field 'colour' is missing or unknown"),
    ({**RAW, 7: 1}, "router: field 7 is missing or unknown"),
    ({k: v for k, v in RAW.items() if k != "head"}, "router: field 'head' is missing"),
    ({**RAW, "head": "mean"}, "router: head 'mean' is none of"),
    ({**RAW, "head": ["classes"]}, "router: head .* is none of"),
    ({**RAW, "head": None}, "router: head None is none of"),
    ({**RAW, "features": 0}, "router: features 0"),
    ({**RAW, "features": -64}, "router: features -64"),
    ({**RAW, "features": 2**20 + 1}, "router: features 1048577"),
    ({**RAW, "features": "64"}, "router: features '64'"),
    ({**RAW, "features": 64.0}, "router: features 64.0"),
    ({**RAW, "directions": True}, "router: directions True"),
    ({**RAW, "directions": 0}, "router: directions 0"),
    ({**RAW, "directions": 65}, "router: 65 directions of 64 features"),
    ({**RAW, "classes": 0}, "router: classes 0"),
    ({**RAW, "classes": None}, "router: classes None"),
    ({**RAW, "classes": 2**21}, "router: classes 2097152"),
    ({**RAW, "head": "scores", "classes": -1}, "router: classes -1"),
    ({**RAW, "lengths": 0}, "router: lengths 0"),
    ({**RAW, "lengths": 65}, "router: lengths 65"),
    ({**RAW, "lengths": "4"}, "router: lengths '4'"),
    ({**RAW, "head": "scores", "classes": 0, "lengths": 2}, "router: lengths 2"),
    ({k: v for k, v in RAW.items() if k != "lengths"}, "router: field 'lengths' is missing"),
]


@pytest.mark.parametrize(("raw", "message"), BAD, ids=str)
def test_what_no_router_can_be_is_refused_in_one_line(raw: Any, message: str) -> None:
    for read in (
        lambda: read_router_shape(raw),
        lambda: read_router(block(router=raw)),
        lambda: GacfxConfig(**block(router=raw)),
    ):
        with pytest.raises(CheckpointError, match=message) as caught:
            read()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
    with pytest.raises(CheckpointError, match=f"^folder/config.json: {message}"):
        check_sizes({"quantization_config": block(router=raw)}, "folder/config.json")


def test_who_wrote_it_is_said() -> None:
    odd = block(router={**RAW, "features": 0}, gacfx_version="9.1")
    with pytest.raises(CheckpointError, match=r"features 0 \(it was written by gacfx 9.1\)$"):
        read_router(odd)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_older_versions_have_no_router(version: int) -> None:
    raw = block(format_version=version, **({"modules": "left out"} if version == 1 else {}))
    message = f"gacfx format version {version} has no router; it should be 4"
    for read in (read_router, lambda each: GacfxConfig(**each)):
        with pytest.raises(CheckpointError, match=message):
            read(raw)
    assert read_router(block(format_version=version, router="left out")) is None


def test_a_block_that_does_not_say_its_version_has_that_of_its_router() -> None:
    raw = block(format_version="left out")
    assert read_router(raw) == SHAPE
    assert GacfxConfig(**raw).format_version == 4


def test_no_router_and_blocks_of_others_are_none() -> None:
    assert read_router(block(router=None)) is None
    assert read_router(block(router="left out")) is None
    assert read_router(block(quant_method="bitsandbytes", router={"x": 1})) is None
    assert read_router(None) is None


def test_the_version_is_the_oldest_that_can_say_it() -> None:
    assert version_for(POOLS, {}) == 2
    assert version_for({"a": Sliced(3, 4, LowRank(1))}, {}) == 3
    assert version_for(POOLS, {}, SHAPE) == version_for({}, {}, SHAPE) == 4


def test_the_block_of_a_configuration() -> None:
    made = GacfxConfig(POOLS, router=SHAPE)
    assert (made.format_version, made.router_shape) == (4, SHAPE)
    again = GacfxConfig(**json.loads(made.to_json_string()))
    assert again.to_dict() == made.to_dict()
    again.keep(POOLS, {}, None)
    assert (again.format_version, again.router_shape) == (2, None)
    assert "router" not in again.to_dict()
