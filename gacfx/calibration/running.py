"""Running a model for its loss, and leaving it exactly as it was."""

# T tokens of one document, V vocabulary

import copy
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor, nn

from gacfx.core.caches import cacheless, without_cache
from gacfx.core.quantized import held_otherwise
from gacfx.errors import CalibrationError, GacError

SMALL_PARAMS = 20_000_000
"""Below this, threads wait for each other longer than they compute: on a busy machine a second one
made calibration of a model of a million parameters 28 times slower."""


@contextmanager
def few_threads(model: nn.Module) -> Iterator[None]:
    """Inside, a small model on a CPU runs on one thread; afterwards as many as before."""
    before = torch.get_num_threads()
    small = sum(parameter.numel() for parameter in model.parameters()) < SMALL_PARAMS
    try:
        if small and device_of(model).type == "cpu":
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def borrowed(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in evaluation mode with frozen parameters and makes no cache;
    afterwards as before.
    """
    training = [(module, module.training) for module in model.modules()]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval()
        for parameter in trainable:
            parameter.requires_grad_(False)
        with few_threads(model), _uncompiled(model), cacheless(model):
            yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module, flag in training:
            module.training = flag


@contextmanager
def _uncompiled(model: nn.Module) -> Iterator[None]:
    """Inside, a model that is compiled runs as it is: hooks and lengths would have it compiled
    again and again, for minutes.
    """
    if not any(map(_is_compiled, model.modules())):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _is_compiled(module: nn.Module) -> bool:
    """After ``module.compile()``, or ``module.forward = torch.compile(module.forward)``."""
    forward = getattr(module, "forward", None)
    return module._compiled_call_impl is not None or hasattr(forward, "_torchdynamo_orig_callable")


def device_of(model: nn.Module) -> torch.device:
    """Device of the first parameter, where the token ids have to go."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def runnable(model: nn.Module) -> nn.Module:
    """The model, or a copy in the dtype that :func:`computing_dtype` says."""
    dtype = computing_dtype(model)
    return model if dtype is None else copy.deepcopy(model).to(dtype)


def computing_dtype(model: nn.Module, device: torch.device | None = None) -> torch.dtype | None:
    """In which dtype a model computes, where its own would not do; None where it does.

    On a CPU float32 takes the place of float16, which is slow and overflows, and of bfloat16 where
    there are no instructions for it, so that products are ten to a hundred times slower. Tensors
    that another program quantized are left to its own products.

    Args:
        model: any.
        device: where it computes; None for where it is.
    """
    if (device or device_of(model)).type != "cpu" or held_otherwise(model):
        return None
    dtypes = {parameter.dtype for parameter in model.parameters()}
    slow = torch.float16 in dtypes or (torch.bfloat16 in dtypes and not multiplies_bfloat16())
    return torch.float32 if slow else None


@cache
def multiplies_bfloat16() -> bool:
    """This CPU has products of bfloat16; of other processors than x86 that is taken for granted."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def logits_of(model: nn.Module, ids_T: Tensor) -> Tensor:
    """Logits [T, V] in float32 (float64 for a float64 model) of one document.

    Args:
        model: a Hugging Face causal language model, or a module that maps ids [1, T] to logits
            [1, T, V].
        ids_T: token ids, int64.

    Raises:
        CalibrationError: as :func:`batch_logits`.
    """
    return batch_logits(model, ids_T[None])[0]


def batch_logits(model: nn.Module, ids_BT: Tensor) -> Tensor:
    """The same [B, T, V] of several documents of one length.

    Args:
        model: as for one; several are read together only by one that :func:`how_read
            <gacfx.calibration.batches.how_read>` found to do so.
        ids_BT: token ids, int64.

    Raises:
        CalibrationError: the model cannot run, or it gives no such logits.
    """
    if (device := device_of(model)).type == "meta":
        raise CalibrationError(
            f"{type(model).__name__} has no values (meta device); load its weights first"
        )
    try:
        output = model(ids_BT.to(device), **without_cache(model))
    except (GacError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever its own code raises
        raise CalibrationError(
            f"{type(model).__name__} cannot read {ids_BT.shape[1]} tokens: {raised(model, error)}; "
            "mend the model or its configuration"
        ) from error
    logits_BTV = getattr(output, "logits", output)
    if not isinstance(logits_BTV, Tensor) or logits_BTV.shape[:2] != ids_BT.shape:
        raise CalibrationError(
            f"{type(model).__name__} gives no logits [{len(ids_BT)}, {ids_BT.shape[1]}, "
            "vocabulary]; calibration needs a causal language model"
        )
    return logits_BTV.to(torch.promote_types(logits_BTV.dtype, torch.float32))


def raised(model: nn.Module, error: BaseException) -> str:
    """What the code of a model raised, and in which of its modules, in one line."""
    names = {id(module): name for name, module in model.named_modules() if name}
    found, trace = "", error.__traceback__
    while trace is not None:
        found = names.get(id(trace.tb_frame.f_locals.get("self")), found)
        trace = trace.tb_next
    where = f" (in {found})" if found else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{where}"


IMPOSSIBLE_NATS = 6e4
"""A token that costs more has no probability: its logit is -inf, or masked by the smallest number
of a dtype, of which that of float16, -65504, is the largest."""


def token_nats(logits_TV: Tensor, ids_T: Tensor) -> Tensor:
    """Negative log-likelihood [T - 1] of each token from the second on, float32, nats."""
    target_T = ids_T[1:].to(logits_TV.device)
    return nn.functional.cross_entropy(logits_TV[:-1], target_T, reduction="none")


def impossible(nats_T: Tensor, ids_T: Tensor, index: int) -> str:
    """Why a document cannot be scored: a token without probability; empty when it can.

    Models mask the rows of their vocabulary that stand for no token.

    Args:
        nats_T: of each token of the document from the second on.
        ids_T: its token ids.
        index: of the document, for the message.
    """
    for token in ids_T[1:].to(nats_T.device)[nats_T > IMPOSSIBLE_NATS].tolist():
        return (
            f"document {index} has the token id {token}, which the model gives no probability "
            "(masked in its vocabulary); tokenise the text with the tokenizer of this model"
        )
    return ""
