"""Profiles: what ships is sourced and honest, what is malformed is refused by field."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gacfx.hardware.profile as profile_module
from gacfx.errors import ProfileError
from gacfx.hardware.profile import DTYPE_BYTES, Stack, load, names

SHIPPED = Path(profile_module.__file__).parent / "profiles"
H200: dict[str, Any] = json.loads((SHIPPED / "h200.json").read_text())


def test_shipped_profiles() -> None:
    checked = [name for name in names() if load(name).evidence == "rules"]
    assert checked == ["a100", "h100", "h200"]
    assert [load(name).name for name in names()] == list(names())


@pytest.mark.parametrize(
    ("name", "cc", "sms", "bf16", "bandwidth_gbps"),
    [
        ("a100", (8, 0), 108, 312, 2039),
        ("h100", (9, 0), 132, 989.4, 3350),
        ("h200", (9, 0), 132, 989, 4800),
    ],
)
def test_peaks_are_dense(
    name: str, cc: tuple[int, int], sms: int, bf16: float, bandwidth_gbps: float
) -> None:
    profile = load(name)
    assert (profile.compute_capability, profile.sms) == (cc, sms)
    assert profile.peak_for("bf16") == profile.peak_for("fp16") == bf16
    assert profile.bandwidth_gbps == bandwidth_gbps


@pytest.mark.parametrize("name", names())
def test_nothing_that_ships_claims_to_be_measured(name: str) -> None:
    profile = load(name)
    assert profile.measured == {}
    assert {source.evidence for source in profile.provenance} == {"read", "estimate"}
    guesses = {s.what for s in profile.provenance if s.evidence == "estimate"}
    assert {"latency.f_tier", "latency.f_mem", "latency.launch_us"} <= guesses


def test_preferred_multiples_are_16_bytes() -> None:
    profile = load("h200")
    assert {d: profile.align_for(d) for d in profile.align} == {
        dtype: 16 // size for dtype, size in DTYPE_BYTES.items()
    }


def test_the_stack_is_an_input() -> None:
    assert load("H200").stack == Stack((2, 11), 91900)
    assert load("h200", torch=(2, 9), cudnn=91002).stack == Stack((2, 9), 91002)
    assert load("h200", torch=(2, 13)).stack == Stack((2, 13), 91900)


def test_other_software_drops_measurements_and_says_who_gave_it(tmp_path: Path) -> None:
    key = "matmul bf16 linear 1x8x8"
    data = copy.deepcopy(H200)
    data["measured"] = {key: {"tier": 1, "kernel": "gemv", "us": 2.5}}
    data["sources"]["measured"] = {"source": "a test", "evidence": "measured"}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(data))
    profile = load(path)
    assert profile.measured[key].us == 2.5
    assert profile.with_stack() is profile
    assert profile.with_stack(torch=(2, 11), cudnn=91900) is profile
    other = profile.with_stack(cudnn=92000)
    assert other.measured == {}
    sources = {source.what: source.source for source in other.provenance}
    assert sources["stack"] == "given by the caller"
    assert "measured" not in sources


def test_profiles_can_be_copied() -> None:
    profile = load("a100")
    assert copy.deepcopy(profile) == profile


@pytest.mark.parametrize("dtype", ["int4", ""])
def test_unknown_dtype_lists_the_known_ones(dtype: str) -> None:
    for ask in (load("a100").align_for, load("a100").peak_for):
        with pytest.raises(ProfileError, match=r"a100: unknown dtype .*known are fp64, fp32"):
            ask(dtype)


def test_share_of_a_flash_template_is_that_of_flash() -> None:
    profile = load("h200")
    assert profile.share_of("flash.t128.pad8") == profile.latency.f_tier["flash"]
    assert profile.share_of("gemv.unaligned") < profile.share_of("gemv")
    with pytest.raises(ProfileError, match="no f_tier for kernel 'wizard'; known are native"):
        profile.share_of("wizard")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("H200", "h200"),
        ("NVIDIA H200", "h200"),
        ("H100-SXM", "h100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("A100 80 GB", "a100"),
        ("RTX 4090", "rtx4090"),
        ("GeForce RTX4090", "rtx4090"),
        ("Tesla T4", "t4"),
        ("DGX Spark", "gb10"),
        ("Jetson AGX Orin", "orin"),
    ],
)
def test_a_gpu_may_be_named_in_other_words(text: str, name: str) -> None:
    assert load(text).name == name


@pytest.mark.parametrize("name", names())
def test_every_profile_is_found_by_what_the_driver_calls_its_device(name: str) -> None:
    assert load(load(name).device).name == name


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("h10", "h100"),
        ("h2000", "h200"),
        ("rtx4080", "rtx4090"),
        ("H100 PCIe", "h100"),  # another board: fewer SMs, less bandwidth
        ("A100-SXM4-40GB", "a100"),  # less bandwidth
        ("RTX 4090 Laptop", "rtx4090"),
        ("L40", "l40s"),
    ],
)
def test_another_gpu_is_refused_with_the_nearest_one(text: str, near: str) -> None:
    with pytest.raises(ProfileError, match=rf"no profile '{text}'; the nearest is {near} \("):
        load(text)


@pytest.mark.parametrize("text", ["wizard", "", "nvidia", "./h200", "gpus/h200"])
def test_unknown_name_lists_what_exists(text: str) -> None:
    with pytest.raises(ProfileError, match=f"no profile '{text}'; there are a10, a100, b200, "):
        load(text)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"none\.json: cannot be read: No such file"):
        load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ProfileError, match=r"bad\.json: not JSON"):
        load(str(tmp_path / "bad.json"))


def put(
    value: object, *path: str | int, measured: bool = False
) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        if measured:
            data["sources"]["sms"]["evidence"] = "measured"
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return change


def drop(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        del data[path[-1]]

    return change


MEASURED = {"tier": 1, "kernel": "native", "us": 1.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("x", "format"), "format: not a profile"),
        (put(2, "version"), "version: 2 is unknown; this gacfx reads version 1"),
        (put(True, "version"), "version: True is unknown"),
        (drop("version"), "version: None is unknown"),
        (put(1, "colour"), "profile: unknown colour; allowed are align"),
        (drop("sms"), "profile: missing sms"),
        (put("132", "sms"), "sms: expected a whole number, not '132'"),
        (put(132.5, "sms"), "sms: expected a whole number"),
        (put(True, "sms"), "sms: expected a whole number, not True"),
        (put(0, "sms"), "sms: expected at least 1, not 0"),
        (put("", "name"), "name: expected a text"),
        (put([9], "compute_capability"), r"compute_capability: expected \[major, minor\]"),
        (put([2, "11"], "stack", "torch"), r"stack\.torch: expected a whole number"),
        (put(-1, "bandwidth_gbps"), "bandwidth_gbps: expected a number above 0"),
        (put(float("nan"), "l2_mb"), "l2_mb: expected a number above 0"),
        (put(1e999, "l2_mb"), "l2_mb: expected a number above 0"),
        (put([], "peak_tflops"), r"peak_tflops: expected an object, not \[\]"),
        (put(1, "peak_tflops", "fp3"), "peak_tflops: unknown fp3; allowed are bf16, fp16"),
        (drop("peak_tflops", "fp32"), "peak_tflops: missing fp32"),
        (drop("align", "bf16"), "align: missing bf16"),
        (put(1.5, "latency", "f_mem"), r"latency\.f_mem: expected a number above 0 and at most 1"),
        (drop("latency", "f_tier", "simt"), r"latency\.f_tier: missing simt"),
        (put([], "latency", "tiles"), r"latency\.tiles: expected a list with at least one"),
        (put(0, "latency", "tiles", 1, "m"), r"latency\.tiles\[1\]\.m: expected at least 1"),
        (put(4, "latency", "tile_k_bytes"), "tile_k_bytes: expected at least 8"),
        (drop("sources", "sms"), "sources: nothing is said of sms; say where it comes from"),
        (drop("sources", "latency.f_tier"), r"nothing is said of latency\.f_tier\.align1"),
        (put({}, "sources", "weight"), "sources: weight is no constant of this profile"),
        (
            put({"source": "x", "evidence": "sure"}, "sources", "sms"),
            "read or estimate or measured",
        ),
        (put("sure", "evidence"), "evidence: expected rules or vendor, not 'sure'"),
        (put("vendor", "evidence", measured=True), "evidence: vendor, but a source says measured"),
        (put({"source": " ", "evidence": "read"}, "sources", "sms"), r"sources\.sms\.source"),
        (put({"k": MEASURED}, "measured"), r"sources: nothing is said of measured\.k"),
        (
            put({"k": {**MEASURED, "tier": 5}}, "measured"),
            r"measured\.k\.tier: .* at most 4, not 5",
        ),
        (put({"k": {**MEASURED, "kernel": "x"}}, "measured"), r"measured\.k\.kernel: 'x' is no"),
    ],
)
def test_malformed_files_are_refused_by_field(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    data = copy.deepcopy(H200)
    change(data)
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ProfileError, match=rf"mine\.json: .*{message}"):
        load(path)


@pytest.mark.parametrize("data", ["null", "[]", '"gacfx-profile"', "{}"])
def test_what_is_no_profile_is_refused(tmp_path: Path, data: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(data)
    with pytest.raises(ProfileError, match="format: not a profile"):
        load(path)


def test_a_source_of_one_member_is_enough(tmp_path: Path) -> None:
    data = copy.deepcopy(H200)
    whole = data["sources"].pop("stack")
    data["sources"] |= {"stack.torch": whole, "stack.cudnn": whole}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(data))
    assert load(path).stack == Stack((2, 11), 91900)
    given = [s.what for s in load(path, torch=(2, 13)).provenance if "stack" in s.what]
    assert given == ["stack"]


def test_the_rules_load_no_torch() -> None:
    code = (
        "import sys, gacfx.hardware.predict, gacfx.hardware.latency\n"
        "gacfx.hardware.profile.load('h200')\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pydantic'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
