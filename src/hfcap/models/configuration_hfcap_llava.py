"""Configuration of the LLaVA-style captioner."""

from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec


@strict
class HfcapLlavaConfig(PreTrainedConfig):
    """Configuration of [`HfcapLlavaForConditionalGeneration`]: vision tower, projector, language model.

    Args:
        vision_config: config of any `AutoModel` vision encoder, CNN or ViT. Of a two-tower config (CLIP, SigLIP) the
            vision part is taken.
        text_config: config of any decoder-only language model.
        image_token_id: id of the placeholder that stands for one image feature in `input_ids`.
        projector_hidden_act: activation between the two layers of the projector.
        multimodal_projector_bias: whether the projector's layers have a bias.
        pixel_shuffle_factor: side r of the blocks of patches merged into one image token; r * r fewer tokens.
        image_position_embeddings: add learned embeddings of the position in the image, after the projection. Patches
            of a CNN hardly say where they lie.
        vision_feature_layer: index into the tower's `hidden_states`, as in stock LLaVA; -1 is the last feature map of
            a CNN; None is `last_hidden_state`, which for most ViT means after the final LayerNorm.
        vision_feature_select_strategy: "default" drops CLS and register tokens, "full" keeps them.
        image_size: side of the pictures in pixels, or [height, width]; None takes the vision config's.
        image_seq_length: number of image tokens in the prompt for one picture. Measured when the model is built.
        vision_hidden_size: features per patch of the vision tower. Measured when the model is built.
        vision_grid: [rows, columns] of patches for one picture. Measured when the model is built.
        tie_word_embeddings: whether `lm_head` shares the token embeddings; True if the text config says so.

    """

    model_type = "hfcap_llava"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="siglip_vision_model"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    image_token_id: int = 32000
    projector_hidden_act: str = "gelu"
    multimodal_projector_bias: bool = True
    pixel_shuffle_factor: int = 1
    image_position_embeddings: bool = False
    vision_feature_layer: int | None = -1
    vision_feature_select_strategy: Literal["default", "full"] = "default"
    image_size: int | list[int] | None = None
    image_seq_length: int | None = None
    vision_hidden_size: int | None = None
    vision_grid: list[int] | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.vision_config = getattr(self.vision_config, "vision_config", None) or self.vision_config
        # As in stock LLaVA: the language model says whether it ties, the composite model does the tying.
        if getattr(self.text_config, "tie_word_embeddings", False):
            self.tie_word_embeddings = True
        if self.pixel_shuffle_factor < 1:
            raise ValueError(f"pixel_shuffle_factor is {self.pixel_shuffle_factor}, it must be at least 1 (1: off).")


__all__ = ["HfcapLlavaConfig"]
