"""A step of decoding as a program of torch alone; engines run it in the tests of onnx."""

from typing import Any

import torch

from gacfx.exports.steps import step_program
from tests.unit.exports.kinds import ids_of, logits_of, model_of


def test_positions_are_counted_from_the_mask() -> None:
    """GPT-2's positions are absolute: rotary ones would not show that they begin elsewhere."""
    model = model_of("gpt2")
    program = step_program(model)
    run: Any = program.graph.module(check_guards=False)  # as engines run it, from an empty past
    ids = ids_of(2, 9)
    ids[0, :3] = 0
    mask = torch.ones_like(ids)
    mask[0, :3] = 0  # padded on the left
    empty = [each.expand(2, -1, -1, -1) for each in program.past]
    past = list(zip(empty[::2], empty[1::2], strict=True))
    found = []
    with torch.no_grad():
        for start, end in ((0, 6), (6, 8), (8, 9)):
            given = {"input_ids": ids[:, start:end], "attention_mask": mask[:, :end]}
            logits, past = run(**given, past=past)
            found.append(logits)
    got = torch.cat(found, 1)
    torch.testing.assert_close(got[0, 3:], logits_of(model, ids[:1, 3:])[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(got[1], logits_of(model, ids[1:])[0], atol=1e-5, rtol=0)
