"""Precision: what weights are held in, NF4 that gives the same figures everywhere, and the type of the products."""

from typing import Any

import torch
from transformers import BitsAndBytesConfig

from sempa_utils.checks import InputError, first_line, installing
from sempa_utils.models.language_model import LanguageModel

PRECISIONS = ("float32", "bfloat16", "nf4")


def nf4_config(device: str = "cpu") -> BitsAndBytesConfig:
    """Return 4-bit NormalFloat with double quantisation, computing in what the device does best."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype(device),
    )


def keep_nf4_exact(model: Any) -> None:
    """Keep bitsandbytes from repacking layers on CPUs with AVX512-BF16.

    It does so in place the first time a layer is used without gradient and then multiplies in bfloat16: the figures
    would differ between machines, between training and evaluation, and with the batch.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def compute_dtype(device: str) -> torch.dtype:
    """Return float32 on the CPU, bfloat16 on a GPU that has it (Ampere and later), else float16."""
    if not device.startswith("cuda"):
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability()[0] >= 8 else torch.float16


def mixed_precision(language_model: LanguageModel) -> dict[str, Any]:
    """Return a trainer's switches: bf16 or fp16 autocast where the model computes so, else none."""
    nf4 = language_model.precision == "nf4"
    dtype = compute_dtype(language_model.device.type) if nf4 else language_model.model.dtype
    return {"bf16": dtype == torch.bfloat16, "fp16": dtype == torch.float16}


def check_nf4(device: str = "cpu") -> None:
    """Raise an `InputError` unless bitsandbytes can quantise and multiply in NF4 on `device`."""
    try:
        import bitsandbytes.functional as functional

        packed, state = functional.quantize_4bit(torch.randn(64, 64, device=device), quant_type="nf4")
        functional.dequantize_4bit(packed, state)
    except Exception as error:  # bitsandbytes fails in many ways: import, missing kernel, missing library
        raise InputError(
            f"NF4 does not work with bitsandbytes on device {device!r} here ({first_line(error)}) "
            f"Use --precision bfloat16 or float32, or try {installing('bitsandbytes')}."
        ) from error
