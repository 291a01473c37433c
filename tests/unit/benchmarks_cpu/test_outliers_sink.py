"""Attention sinks: one token of a window with activations a thousandfold rules its moments."""

from dataclasses import replace

import torch

from benchmarks.outliers import planted
from gacfx import api
from gacfx.calibration.counting import Counting
from gacfx.calibration.evaluate import evaluate
from gacfx.calibration.text import Corpus, read_documents
from gacfx.core.search import Search
from gacfx.demo import MODEL
from gacfx.study import Study

WINDOW = 48
SEARCH = Search(value="two-sided", form="pair")


def text(name: str, model: torch.nn.Module, tokens: int) -> Corpus:
    """Windows of one length, so that many tokens are the first of one."""
    whole = api.read_calibration(read_documents(MODEL / name), model, api.load(MODEL)[1], tokens)
    pieces = (piece for ids_T in whole.documents for piece in ids_T.split(WINDOW))
    return Corpus(tuple(piece for piece in pieces if len(piece) == WINDOW))


def test_a_planted_sink_spoils_a_plan_unless_its_position_is_left_out() -> None:
    model = planted(api.load(MODEL)[0])
    calibration = text("calibration.jsonl", model, 12_000)
    judge = text("evaluation.jsonl", model, 4000)
    dense = evaluate(model, judge).nats_per_token
    excess = {}
    for counting in (Counting(), Counting(first=1)):
        study = Study.make(model, replace(calibration, counting=counting), force=True)
        made = study.plan("0.3", profile=api.load_profile("h200"), search=SEARCH)
        excess[counting.first] = study.measure(made, judge) - dense
    assert excess[0] > 1.3 * excess[1] > 0, excess
