"""SliceGPT with one rotation: a plain model of a smaller hidden size.

    sliced = slice_hidden(model, tokenizer, calibration="texts.jsonl", ratio=0.2)
    save_sliced(sliced, "small")

Guided tour: :mod:`gacfx.coupling.residual` finds who knows the coordinates of the residual stream,
:mod:`~gacfx.slicing.moments` sees which of them matter, :mod:`~gacfx.slicing.rotation` chooses the
subspace that is kept, :mod:`~gacfx.slicing.basis` says how it is written and read,
:mod:`~gacfx.slicing.folding` puts that into the weights, and :mod:`~gacfx.slicing.door` does it all
and judges the result.
"""
