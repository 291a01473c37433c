"""Tensors as bytes: the same values in every dtype, and shared ones stay shared."""

import pickle

import pytest
import torch

from gacfx.core.tensor_bytes import TensorBytes


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.int64])
def test_values_come_back(dtype: torch.dtype) -> None:
    tensor = torch.arange(12).reshape(3, 4).to(dtype)
    tensors = {
        "one": tensor,
        "same": tensor,
        "turned": tensor.T,
        "view": tensor[1:],
        "no": tensor[:0],
    }
    sent = pickle.loads(pickle.dumps(TensorBytes.of(tensors)))
    found = sent.tensors()
    assert list(found) == list(tensors)
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert all(found[name].dtype == dtype for name in tensors)
    assert found["one"] is found["same"]
    found["one"].add_(1)
    assert torch.equal(found["view"], tensor[1:])


def test_equal_tensors_are_sent_once() -> None:
    large = torch.zeros(1000)
    once = len(TensorBytes.of({"a": large}).data)
    assert len(TensorBytes.of({"a": large, "b": large}).data) < once + 1000
    assert len(TensorBytes.of({"a": large, "b": large.clone()}).data) > 2 * once - 1000
