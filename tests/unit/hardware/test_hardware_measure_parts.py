import json
from pathlib import Path

import pytest

from gacfx.hardware.measure.cases.attention import Attention
from gacfx.hardware.measure.cases.gemm import Gemm
from gacfx.hardware.measure.part import Rates, Setting
from gacfx.hardware.measure.parts.ceilings import Ceilings
from gacfx.hardware.measure.parts.dispatch import Dispatch, read_extra
from gacfx.hardware.measure.timing import HostTimer


def dry(extra: Path | None = None) -> Setting:
    return Setting(HostTimer(), Rates(), dry=True, extra=extra)


def test_ceilings_make_the_floors() -> None:
    setting = dry()
    part = Ceilings(setting)
    for item in part.items():
        part.measure(item)
    assert setting.rates.gbps > 0
    assert {"bf16", "fp16", "fp32", "fp64"} <= setting.rates.tflops.keys()
    assert setting.rates.floor_us(1e6, 1e6, "bf16")


def test_private_shapes_are_added_and_repeats_dropped(tmp_path: Path) -> None:
    path = tmp_path / "extra.json"
    path.write_text(
        json.dumps(
            [
                {"op": "gemm", "rule": "V", "m": 3, "n": 5, "k": 7, "call": "mm_nn"},
                {"op": "gemm", "m": 2048, "n": 4096, "k": 4096},
                {"op": "attention", "d": 72, "batch": 3},
            ]
        )
    )
    own, more = len(Dispatch(dry()).items()), Dispatch(dry(path)).items()
    assert len(more) == own + 2
    assert more[-2].case == Gemm(3, 5, 7, op="mm_nn") and more[-2].rule == "V"
    assert more[-1].case == Attention(72, batch=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "expected a list"),
        ('[{"m": 1}]', r"\[0\]: expected an object"),
        ('[{"op": "gemm", "m": 1, "n": 2}]', "missing"),
        ('[{"op": "gemm", "m": 1, "n": 2, "k": 3, "heads": 4}]', "unknown heads"),
        ("nonsense", "Expecting value"),
    ],
)
def test_bad_private_shapes_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "extra.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_extra(path)
