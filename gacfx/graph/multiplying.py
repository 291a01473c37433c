"""Every operator that multiplies, by any spelling: those that get a site, and those that get none.

torch.export spells a linear ``aten.linear.default``, dynamo ``torch._C._nn.linear``; passes ask
:mod:`gacfx.graph.ops` and never compare targets themselves. What is in neither table moves numbers,
or works on each by itself.
"""

import operator
from enum import StrEnum
from functools import cache

import torch
from torch._ops import HigherOrderOperator, OpOverload
from torch.fx import Node


class Op(StrEnum):
    """Operators that get a site."""

    LINEAR = "linear"
    """linear(x [.., K], weight [N, K], bias)"""
    ADDMM = "addmm"
    """addmm(bias, x [M, K], weight [K, N])"""
    MATMUL = "matmul"
    """matmul, mm, bmm of two tensors"""
    BADDBMM = "baddbmm"
    """baddbmm, addbmm, addmv: something, and a product of two tensors added to it"""
    CONTRACTION = "contraction"
    """einsum, tensordot, inner and others: a product over any axes"""
    GROUPED_MM = "grouped_mm"
    """grouped_mm(x [M, K], weight [E, K, N], offsets)"""
    CONV = "conv"
    """conv2d(x [B, C, ..], weight [N, C, ..], bias)"""
    ATTENTION = "attention"
    """scaled_dot_product_attention(q, k, v, mask, ...)"""


_ATTENTIONS = (
    *("attention", "flash_attention", "flash_attention_for_cpu", "efficient_attention"),
    *("cudnn_attention", "fused_attention_overrideable", "attention_math"),
    "attention_math_for_mps",
)
_NAMES: dict[str, Op] = {
    "linear": Op.LINEAR,
    "addmm": Op.ADDMM,
    **dict.fromkeys(("matmul", "mm", "bmm", "linalg_matmul", "_int_mm", "_scaled_mm"), Op.MATMUL),
    **dict.fromkeys(("baddbmm", "addbmm", "addmv", "_addmm_activation"), Op.BADDBMM),
    **dict.fromkeys(("einsum", "tensordot", "inner", "mv", "dot", "vdot"), Op.CONTRACTION),
    **dict.fromkeys(("grouped_mm", "_grouped_mm", "_scaled_grouped_mm"), Op.GROUPED_MM),
    "transformers.grouped_mm_fallback": Op.GROUPED_MM,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution", "_convolution"), Op.CONV),
    "scaled_dot_product_attention": Op.ATTENTION,
    **dict.fromkeys((f"_scaled_dot_product_{name}" for name in _ATTENTIONS), Op.ATTENTION),
}
_WITHOUT_SITE = frozenset(
    (
        *("bilinear", "_trilinear", "chain_matmul", "linalg_multi_dot", "linalg_vecdot", "cdist"),
        *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "conv_tbc"),
        *("cudnn_convolution", "cudnn_convolution_transpose", "convolution_overrideable"),
        *("mkldnn_convolution", "miopen_convolution", "_slow_conv2d_forward"),
        *("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell"),
        *("rnn_relu_cell", "quantized_lstm", "quantized_gru", "mkldnn_linear", "mkldnn_rnn_layer"),
        *("_flash_attention_forward", "_efficient_attention_forward", "flex_attention"),
        *("_native_multi_head_attention", "_transformer_encoder_layer_fwd"),
        *("_sparse_mm", "_sparse_addmm", "sspaddmm", "hspmm", "smm", "sparse_sampled_addmm"),
        *("_sparse_semi_structured_linear", "_sparse_semi_structured_mm"),
        *("_sparse_semi_structured_addmm", "_cslt_sparse_mm", "_scaled_mm_v2"),
        *("_weight_int4pack_mm", "_weight_int4pack_mm_for_cpu", "_weight_int8pack_mm"),
        *("_weight_int4pack_mm_with_scales_and_zeros", "_dyn_quant_matmul_4bit"),
        *("_wrapped_quantized_linear_prepacked", "_wrapped_linear_prepack"),
        *("fbgemm_linear_int8_weight", "fbgemm_linear_fp16_weight", "_scaled_grouped_mm_v2"),
        *("linalg_solve", "linalg_solve_ex", "linalg_solve_triangular", "triangular_solve"),
        *("linalg_inv", "linalg_inv_ex", "inverse", "cholesky_solve", "linalg_cholesky"),
        *("linalg_matrix_power", "matrix_power", "linalg_matrix_exp", "matrix_exp"),
    )
)
_OWN = ("aten", "prims", "prim", "higher_order", "quantized_decomposed", "_c10d_functional")
"""Namespaces of torch itself, whose operators are in these tables or multiply nothing."""


def name_of(node: Node) -> str:
    """``bmm`` for ``aten.bmm.default``, ``torch.bmm`` and a method of that name; with its namespace
    for an operator of another package; empty where it is no operator of torch.
    """
    target = node.target
    if node.op == "call_method":
        return str(target).removesuffix("_")
    if node.op != "call_function":
        return ""
    if isinstance(target, OpOverload):
        name = target._schema.name.rpartition("::")[2]
        name = name if name.endswith("__") else name.removesuffix("_")
        return name if target.namespace in _OWN else f"{target.namespace}.{name}"
    if isinstance(target, HigherOrderOperator):
        return str(target.name())
    return _functions().get(target, "")


@cache
def _functions() -> dict[object, str]:
    """Functions of torch -> name of the operator."""
    found: dict[object, str] = {operator.matmul: "matmul", operator.imatmul: "matmul"}
    homes = (torch, torch.nn.functional, torch._C._nn, torch.linalg, torch.Tensor)
    for name in (*_NAMES, *sorted(_WITHOUT_SITE)):
        for home in homes:
            function = getattr(home, name.removeprefix("linalg_"), None)
            if callable(function):
                found.setdefault(function, name)
    return found


def op_of(node: Node) -> Op | None:
    """Which operator ``node`` is; None when it gets no site."""
    return _NAMES.get(name_of(node))


def without_site(node: Node) -> bool:
    """It multiplies, or may do so, and nothing here knows the sizes.

    Of an operator of another package that is all that is known, where it is given two matrices.
    """
    name = name_of(node)
    if not name or name in _NAMES:
        return False
    if name in _WITHOUT_SITE or name.removesuffix("_backward") in (*_NAMES, *_WITHOUT_SITE):
        return True
    if name.endswith("_backward") and name.startswith(("_flash_attention", "_efficient_attention")):
        return True
    foreign = isinstance(node.target, OpOverload) and node.target.namespace not in _OWN
    return foreign and len([n for n in node.all_input_nodes if _is_matrix(n)]) > 1


def _is_matrix(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dim() > 1
