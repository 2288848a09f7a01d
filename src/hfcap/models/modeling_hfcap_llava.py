"""LLaVA-style captioner: any vision encoder, a projector, any decoder-only language model.

The layout and the parameter names are those of transformers' LLaVA (https://arxiv.org/abs/2304.08485,
https://arxiv.org/abs/2310.03744), so that with a ViT and without token reduction the weights load into the
stock class.
"""

from typing import ClassVar

import torch
from torch import nn
from transformers import AutoModel, GenerationConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.modeling_utils import slice_logits_to_keep
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, torch_compilable_check
from transformers.utils.generic import can_return_tuple

from .configuration_hfcap_llava import HfcapLlavaConfig
from .image_features import encode_images, fill_measured_fields, shuffle_patches
from .model_utils import keep_4bit_layers_unpacked, keep_frozen_in_eval, to_additive_mask


class HfcapLlavaMultiModalProjector(nn.Module):
    """Optional pixel shuffle, a two-layer MLP, optional positions.

    (B, patches, vision width) -> (B, image tokens, text width).
    """

    def __init__(self, config: HfcapLlavaConfig):
        super().__init__()
        self.factor = config.pixel_shuffle_factor
        self.grid = config.vision_grid
        text_width = config.text_config.hidden_size
        bias = config.multimodal_projector_bias
        self.linear_1 = nn.Linear(config.vision_hidden_size * self.factor**2, text_width, bias=bias)
        self.act = ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Linear(text_width, text_width, bias=bias)
        # CODEPATH: an option of a training run, off in checkpoints that stock LLaVA can hold.
        num_positions = config.image_seq_length if config.image_position_embeddings else 0
        self.image_positions = nn.Embedding(num_positions, text_width) if num_positions else None

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Project raw features, cast to the projector's dtype first (a cache may hold them in half precision)."""
        features = features.to(self.linear_1.weight.dtype)
        if self.factor > 1:
            features = shuffle_patches(features, *self.grid, self.factor)
        projected = self.linear_2(self.act(self.linear_1(features)))
        if self.image_positions is not None:
            projected = projected + self.image_positions(torch.arange(projected.shape[1], device=projected.device))
        return projected


class HfcapLlavaPreTrainedModel(PreTrainedModel):
    """What the two classes below share."""

    config: HfcapLlavaConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values"]

    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def train(self, mode: bool = True):
        """Switch to training, except BatchNorm and frozen parts, which stay in eval()."""
        super().train(mode)
        keep_frozen_in_eval(self)
        keep_4bit_layers_unpacked(self)
        return self


class HfcapLlavaModel(HfcapLlavaPreTrainedModel):
    """Vision tower, projector and language model, without the language model's head.

    Args:
        config: its measured fields (`image_seq_length`, `vision_hidden_size`, `vision_grid`) are filled here if None.
        vision_tower: a built encoder to take instead of a new one; its config must be the object
            `config.vision_config`. `HfcapLlavaForConditionalGeneration.from_parts` sees to it.
        language_model: likewise, without its head.

    """

    def __init__(
        self,
        config: HfcapLlavaConfig,
        vision_tower: PreTrainedModel | None = None,
        language_model: PreTrainedModel | None = None,
    ):
        super().__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config) if vision_tower is None else vision_tower
        fill_measured_fields(config, self.vision_tower)
        self.multi_modal_projector = HfcapLlavaMultiModalProjector(config)
        self.language_model = AutoModel.from_config(config.text_config) if language_model is None else language_model
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Give the language model's token embeddings."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        """Replace the language model's token embeddings."""
        self.language_model.set_input_embeddings(value)

    def get_vision_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Encode (B, 3, H, W) pictures into the raw (B, N, D) features that enter the projector, ready for a cache."""
        pixel_values = pixel_values.to(self.vision_tower.dtype)
        return encode_images(
            self.vision_tower,
            pixel_values,
            feature_layer=self.config.vision_feature_layer,
            select_strategy=self.config.vision_feature_select_strategy,
        )

    def get_image_features(
        self,
        pixel_values: torch.Tensor | None = None,
        vision_features: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Encode and project pictures.

        Args:
            pixel_values: (B, 3, H, W).
            vision_features: (B, N, D) from `get_vision_features`, instead of `pixel_values`.
            **kwargs: ignored; the generation code passes its own.

        Returns:
            `last_hidden_state`: the raw (B, N, D) features; `pooler_output`: (B, image tokens, text width).

        """
        if (pixel_values is None) == (vision_features is None):
            raise ValueError("Pass exactly one of pixel_values and vision_features.")
        if vision_features is None:
            vision_features = self.get_vision_features(pixel_values)
        projected = self.multi_modal_projector(vision_features)
        return BaseModelOutputWithPooling(last_hidden_state=vision_features, pooler_output=projected)

    def get_placeholder_mask(
        self, input_ids: torch.LongTensor | None, inputs_embeds: torch.Tensor, image_features: torch.Tensor
    ) -> torch.Tensor:
        """Find the image tokens in `input_ids` (B, L), or in `inputs_embeds` (B, L, D) where there are no ids.

        `image_features` is (images, image tokens, D). Gives (B, L, 1) bool.

        Raises:
            ValueError: there are not as many image tokens as image features.

        """
        if input_ids is None:
            image_token = torch.full((), self.config.image_token_id, dtype=torch.long, device=inputs_embeds.device)
            mask = (inputs_embeds == self.get_input_embeddings()(image_token)).all(-1)
        else:
            mask = input_ids == self.config.image_token_id
        num_tokens = mask.sum()
        num_features = image_features.shape[0] * image_features.shape[1]
        torch_compilable_check(
            num_tokens == num_features,
            lambda: (
                f"Got {num_tokens} image tokens (id {self.config.image_token_id}) in the text, but {num_features} "
                f"image features ({image_features.shape[0]} images x {image_features.shape[1]}). Set the processor's "
                f"image_seq_length to model.config.image_seq_length ({self.config.image_seq_length}), and pass one "
                "image for each image placeholder."
            ),
        )
        return mask.unsqueeze(-1)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        vision_features: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPast:
        """Run the language model on text with the projected image features in place of the image tokens.

        Args:
            input_ids: (B, L) int64; this or `inputs_embeds`.
            pixel_values: (images, 3, H, W), in the order of the placeholders in `input_ids`.
            vision_features: (images, N, D) raw features instead of `pixel_values`.
            attention_mask: (B, L), or (B, 1, L, L): bool (True: may attend) or additive.
            position_ids: (B, L).
            inputs_embeds: (B, L, D) instead of `input_ids`.
            mm_encoder_outputs: {"image": output of `get_image_features`}, as `generate` passes it.
            **kwargs: passed on to the language model, its cache among them (`past_key_values`, or `cache` from
                transformers 5.24 on).

        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of input_ids and inputs_embeds.")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)

        image_outputs = (mm_encoder_outputs or {}).get("image")
        if pixel_values is not None or vision_features is not None:
            if image_outputs is not None:
                raise ValueError("Pass only one of pixel_values, vision_features and mm_encoder_outputs.")
            image_outputs = self.get_image_features(pixel_values, vision_features)

        if image_outputs is not None:
            image_features = image_outputs.pooler_output.to(inputs_embeds.device, inputs_embeds.dtype)
            mask = self.get_placeholder_mask(input_ids, inputs_embeds, image_features)
            inputs_embeds = inputs_embeds.masked_scatter(mask, image_features)

        return self.language_model(
            attention_mask=to_additive_mask(attention_mask, inputs_embeds.dtype),
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )


class HfcapLlavaForConditionalGeneration(HfcapLlavaPreTrainedModel, GenerationMixin):
    """The captioner: [`HfcapLlavaModel`] with a language-model head.

    Image tokens are suppressed in `generation_config`, so that they are never generated.

    Args:
        config: see [`HfcapLlavaConfig`].
        vision_tower: a built encoder to take instead of a new one; see `from_parts`.
        language_model: likewise, without its head.

    """

    # The collator states the targets and the trainer normalises the loss by their number in the whole step.
    accepts_loss_kwargs = False
    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan: ClassVar[dict[str, str]] = {"lm_head": "colwise_gather_output"}

    def __init__(
        self,
        config: HfcapLlavaConfig,
        vision_tower: PreTrainedModel | None = None,
        language_model: PreTrainedModel | None = None,
    ):
        super().__init__(config)
        check_plain_head(config)
        self.model = HfcapLlavaModel(config, vision_tower, language_model)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        # GPT-2 calls its embeddings `wte`, others otherwise: tie to whatever they are called.
        embeddings = self.model.get_input_embeddings()
        name = next(name for name, module in self.model.named_modules() if module is embeddings)
        self._tied_weights_keys = {"lm_head.weight": f"model.{name}.weight"}
        self.post_init()
        self.generation_config.suppress_tokens = [config.image_token_id]

    @classmethod
    def from_parts(
        cls, vision_tower: PreTrainedModel, language_model: PreTrainedModel, image_token_id: int, **config_fields
    ) -> "HfcapLlavaForConditionalGeneration":
        """Join a (pretrained) vision encoder and a (pretrained) causal language model by a new projector.

        The two are taken over, not copied. Of the language model's generation settings only the
        token ids are.

        Args:
            vision_tower: any vision encoder; see `hfcap.models.load_vision_encoder`.
            language_model: a causal language model with its head, whose vocabulary holds `image_token_id` already
                (`processing_hfcap_llava.add_image_token`, then `resize_token_embeddings`).
            image_token_id: id of the placeholder.
            **config_fields: other fields of [`HfcapLlavaConfig`].

        Raises:
            ValueError: the head has a bias, or the image token is outside the vocabulary.

        """
        head = language_model.get_output_embeddings()
        if getattr(head, "bias", None) is not None:
            raise ValueError(
                f"The head of {type(language_model).__name__} has a bias; the head of this class has none."
            )
        if image_token_id >= head.weight.shape[0]:
            raise ValueError(
                f"image_token_id is {image_token_id}, but the language model has {head.weight.shape[0]} embeddings. "
                "Call language_model.resize_token_embeddings(len(tokenizer)) after adding the image token."
            )
        config = HfcapLlavaConfig(
            vision_config=vision_tower.config,
            text_config=language_model.config,
            image_token_id=image_token_id,
            # A composite config resets the backends of its parts unless it is told them.
            attn_implementation={
                "vision_config": vision_tower.config._attn_implementation,
                "text_config": language_model.config._attn_implementation,
            },
            experts_implementation={"text_config": language_model.config._experts_implementation},
            **config_fields,
        )
        model = cls(config, vision_tower, language_model.base_model)
        model.model.multi_modal_projector.to(language_model.dtype)
        model.lm_head.weight = head.weight
        model.tie_weights()
        # Its token ids alone: a chat model samples and penalises repetition, and a captioner of it must not.
        ids = {
            f"{name}_token_id": getattr(language_model.generation_config, f"{name}_token_id")
            for name in ("bos", "eos", "pad")
        }
        model.generation_config = GenerationConfig(**ids, suppress_tokens=[image_token_id])
        return model

    def get_output_embeddings(self) -> nn.Module:
        """Give the head."""
        return self.lm_head

    def get_vision_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Encode (B, 3, H, W) pictures into the raw (B, N, D) features that enter the projector, ready for a cache."""
        return self.model.get_vision_features(pixel_values)

    def get_image_features(
        self,
        pixel_values: torch.Tensor | None = None,
        vision_features: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Encode and project pictures; see [`HfcapLlavaModel.get_image_features`]."""
        return self.model.get_image_features(pixel_values, vision_features, **kwargs)

    @torch.no_grad()
    def generate(self, *args, vision_features: torch.Tensor | None = None, **kwargs):
        """Generate as any model does; `vision_features` (images, N, D) may stand in for `pixel_values`."""
        if vision_features is not None:
            image_outputs = self.get_image_features(kwargs.pop("pixel_values", None), vision_features)
            kwargs["mm_encoder_outputs"] = {"image": image_outputs}
        return super().generate(*args, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        vision_features: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast:
        """Compute logits, and the loss where `labels` are given; for the other arguments see [`HfcapLlavaModel`].

        `labels`: (B, L) int64, -100 where there is no target; shifted here unless `shift_labels` is given as well, and
        divided by `num_items_in_batch` where that is given. `logits_to_keep`: the number of last positions to compute
        logits for (0: all), or their indices, or a (B, L) bool mask, which gives (positions kept, vocabulary).
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            vision_features=vision_features,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            mm_encoder_outputs=mm_encoder_outputs,
            **kwargs,
        )
        logits = self.lm_head(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            vocab_size = self.config.text_config.vocab_size
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=vocab_size, **kwargs)
        # Under the language model's own names: the cache is called otherwise from transformers 5.24 on.
        others = {name: value for name, value in outputs.items() if name != "last_hidden_state"}
        return CausalLMOutputWithPast(loss=loss, logits=logits, **others)


def check_plain_head(config: HfcapLlavaConfig) -> None:
    """Refuse language models whose head does more than a matrix product: this class would give other logits."""
    for name in ("final_logit_softcapping", "logits_scaling", "logit_scale"):
        value = getattr(config.text_config, name, None)
        if value not in (None, 1, 1.0):
            raise ValueError(
                f"The language model ({config.text_config.model_type}) has {name}={value}, which the head of "
                "HfcapLlavaForConditionalGeneration does not apply. Choose a model without it."
            )


__all__ = ["HfcapLlavaForConditionalGeneration", "HfcapLlavaModel", "HfcapLlavaPreTrainedModel"]
