"""4-bit quantisation of the language model (QLoRA)."""

import torch
from transformers import BitsAndBytesConfig

from hfcap.models.model_types import ModelTypeSpec
from hfcap.models.precision import fast_bfloat16


def four_bit_config(spec: ModelTypeSpec, compute_dtype: torch.dtype) -> BitsAndBytesConfig:
    """NF4 with double quantisation for the language model alone (QLoRA, Dettmers et al., 2023).

    The skip list needs full module names: on a v5 LLaVA "vision_tower" matches nothing, silently.
    """
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
        llm_int8_skip_modules=[
            *(prefix.removesuffix(".") for prefix in (*spec.encoder, *spec.projector)),
            *spec.head,
        ],
    )


def compute_dtype() -> torch.dtype:
    """Dtype of 4-bit layers' products: bfloat16 on a GPU that has it, else float32."""
    return torch.bfloat16 if torch.cuda.is_available() and fast_bfloat16(on_cpu=False) else torch.float32
