"""Cross-attention captioner: any vision encoder, a small bridge, a decoder with cross-attention.

An extension of transformers' `VisionEncoderDecoderModel`: encoders without `hidden_size` (a CNN with a 4-D feature
map), a bridge between encoder and decoder, and raw encoder features from a cache as input.
"""

from typing import ClassVar

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel, VisionEncoderDecoderModel
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.utils.generic import can_return_tuple

from .configuration_hfcap_encoder_decoder import HfcapEncoderDecoderConfig
from .image_features import encode_images, fill_measured_fields
from .model_utils import keep_4bit_layers_unpacked, keep_frozen_in_eval, to_additive_mask

# What transformers calls the cache: the first until 5.23, the second from 5.24 on.
CACHE_NAMES = ("past_key_values", "cache")


class HfcapBridgeLayer(GradientCheckpointingLayer, nn.TransformerEncoderLayer):
    """Pre-norm Transformer encoder layer over the image tokens, (B, N, D) -> (B, N, D), that can be checkpointed."""


class HfcapEncoderDecoderModel(VisionEncoderDecoderModel):
    """The captioner. Raw features -> LayerNorm -> projection -> positions -> dropout -> bridge layers -> decoder.

    All steps between the raw features and the decoder but the projection are optional; see
    [`HfcapEncoderDecoderConfig`].

    Args:
        config: its measured fields (`image_seq_length`, `vision_hidden_size`, `vision_grid`) are filled here if None.
        encoder: a built vision encoder to take instead of a new one; its config must be the object `config.encoder`.
        decoder: likewise, a causal language model with cross-attention. `from_parts` sees to both.

    """

    config: HfcapEncoderDecoderConfig
    _no_split_modules: ClassVar[list[str]] = ["HfcapBridgeLayer"]
    # The collator states the targets and the trainer normalises the loss by their number in the whole step.
    accepts_loss_kwargs = False

    def __init__(
        self,
        config: HfcapEncoderDecoderConfig,
        encoder: PreTrainedModel | None = None,
        decoder: PreTrainedModel | None = None,
    ):
        # The stock constructor needs `config.encoder.hidden_size`, which a CNN does not have: go past it.
        super(VisionEncoderDecoderModel, self).__init__(config)
        self.encoder = AutoModel.from_config(config.encoder) if encoder is None else encoder
        self.decoder = AutoModelForCausalLM.from_config(config.decoder) if decoder is None else decoder
        fill_measured_fields(config, self.encoder)
        self._build_bridge()
        self.post_init()
        self.generation_config.pad_token_id = config.pad_token_id
        self.generation_config.eos_token_id = config.eos_token_id
        self.generation_config.decoder_start_token_id = config.decoder_start_token_id

    def _build_bridge(self) -> None:
        config = self.config
        width, num_layers = config.decoder.hidden_size, config.num_bridge_layers
        num_heads = config.num_bridge_heads or config.decoder.num_attention_heads
        # CODEPATH: options of a training run, off in checkpoints that stock VisionEncoderDecoderModel can hold.
        self.feature_norm = nn.LayerNorm(config.vision_hidden_size) if config.feature_layer_norm else nn.Identity()
        self.feature_dropout = nn.Dropout(config.feature_dropout)
        # Like stock, no projection between equal widths.
        is_same = config.vision_hidden_size == width
        self.enc_to_dec_proj = nn.Identity() if is_same else nn.Linear(config.vision_hidden_size, width)
        # CODEPATH: as above.
        num_positions = config.image_seq_length if config.image_position_embeddings else 0
        self.image_positions = nn.Embedding(num_positions, width) if num_positions else None
        self.image_dropout = nn.Dropout(config.image_dropout)
        self.image_token_dropout = nn.Dropout1d(config.image_token_dropout)  # (B, N, D): drops whole rows of D
        self.bridge_layers = nn.ModuleList(
            HfcapBridgeLayer(
                width,
                num_heads,
                dim_feedforward=4 * width,
                dropout=config.bridge_dropout,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(num_layers)
        )
        self.bridge_norm = nn.LayerNorm(width) if num_layers else nn.Identity()

    @classmethod
    def from_parts(
        cls, encoder: PreTrainedModel, decoder: PreTrainedModel, **config_fields
    ) -> "HfcapEncoderDecoderModel":
        """Join a (pretrained) vision encoder and a decoder by a new bridge; both are taken over, not copied.

        Args:
            encoder: any vision encoder; see `hfcap.models.load_vision_encoder`.
            decoder: a causal language model built with `is_decoder=True, add_cross_attention=True`.
            **config_fields: other fields of [`HfcapEncoderDecoderConfig`]: `pad_token_id`, `num_bridge_layers`, ...

        Raises:
            ValueError: the decoder has no cross-attention.

        """
        if not getattr(decoder.config, "add_cross_attention", False):
            raise ValueError(
                f"The decoder ({decoder.config.model_type}) has add_cross_attention="
                f"{getattr(decoder.config, 'add_cross_attention', None)}, it must be True. Set it "
                "(and is_decoder=True) in the decoder's config before the decoder is built or loaded."
            )
        # The config objects themselves, not copies as in stock: the layers of the parts hold them too, and would not
        # see a later change of the attention backend.
        config = HfcapEncoderDecoderConfig(
            encoder=encoder.config,
            decoder=decoder.config,
            # A composite config resets the backends of its parts unless it is told them.
            attn_implementation={
                "encoder": encoder.config._attn_implementation,
                "decoder": decoder.config._attn_implementation,
            },
            **config_fields,
        )
        model = cls(config, encoder, decoder)
        for name, module in model.named_children():
            if name not in ("encoder", "decoder"):
                module.to(decoder.dtype)
        return model

    def train(self, mode: bool = True):
        """Switch to training, except BatchNorm and frozen parts, which stay in eval()."""
        super().train(mode)
        keep_frozen_in_eval(self)
        keep_4bit_layers_unpacked(self)
        return self

    def set_input_embeddings(self, value: nn.Module):
        """Replace the decoder's token embeddings."""
        self.decoder.set_input_embeddings(value)

    def get_vision_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Encode (B, 3, H, W) pictures into the raw (B, N, D) features that enter the bridge, ready for a cache."""
        pixel_values = pixel_values.to(self.encoder.dtype)
        return encode_images(
            self.encoder,
            pixel_values,
            feature_layer=self.config.vision_feature_layer,
            select_strategy=self.config.vision_feature_select_strategy,
        )

    def get_encoder_outputs(
        self, pixel_values: torch.Tensor | None = None, vision_features: torch.Tensor | None = None
    ) -> BaseModelOutput:
        """Compute what the decoder attends to.

        Args:
            pixel_values: (B, 3, H, W).
            vision_features: (B, N, D) from `get_vision_features`, instead of `pixel_values`.

        Returns:
            `last_hidden_state`: (B, N, decoder width), after the bridge.

        Raises:
            ValueError: not exactly one of the two, or position embeddings for another number of image tokens.

        """
        if (pixel_values is None) == (vision_features is None):
            raise ValueError("Pass exactly one of pixel_values and vision_features (or encoder_outputs alone).")
        if vision_features is None:
            vision_features = self.get_vision_features(pixel_values)
        # A cache may hold features in half precision.
        hidden_states = self.feature_norm(vision_features.to(self.decoder.dtype))
        hidden_states = self.enc_to_dec_proj(self.feature_dropout(hidden_states))
        if self.image_positions is not None:
            num_features, num_positions = hidden_states.shape[1], self.image_positions.num_embeddings
            if num_features != num_positions:
                raise ValueError(
                    f"Got {num_features} features per image for {num_positions} position embeddings. Use images of "
                    "the size the model was built for, or build it with that `image_size`."
                )
            # Called rather than read: under ZeRO-3 a weight is whole during its module's forward only.
            positions = torch.arange(num_positions, device=hidden_states.device)
            hidden_states = hidden_states + self.image_positions(positions)
        hidden_states = self.image_token_dropout(self.image_dropout(hidden_states))
        for layer in self.bridge_layers:
            hidden_states = layer(hidden_states)
        return BaseModelOutput(last_hidden_state=self.bridge_norm(hidden_states))

    @torch.no_grad()
    def generate(
        self, inputs: torch.Tensor | None = None, *args, vision_features: torch.Tensor | None = None, **kwargs
    ):
        """Generate as any model does, from pixel_values (`inputs`), raw `vision_features`, or `encoder_outputs`.

        Encoder and bridge run once: `forward` receives their output at each step.
        """
        if kwargs.get("encoder_outputs") is None:
            pixel_values = kwargs.pop("pixel_values", None)
            pixel_values = inputs if pixel_values is None else pixel_values
            kwargs["encoder_outputs"] = self.get_encoder_outputs(pixel_values, vision_features)
        return super().generate(None, *args, **kwargs)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: tuple[torch.Tensor] | BaseModelOutput | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        vision_features: torch.Tensor | None = None,
        **kwargs,
    ) -> Seq2SeqLMOutput:
        """Compute the decoder's logits, and the loss where `labels` are given.

        Args:
            pixel_values: (B, 3, H, W); exactly one of this, `vision_features` and `encoder_outputs`.
            decoder_input_ids: (B, L) int64; made from `labels` if absent.
            decoder_attention_mask: (B, L), or (B, 1, L, L): bool (True: may attend) or additive.
            encoder_outputs: of `get_encoder_outputs`: what the decoder attends to, after the bridge.
            decoder_inputs_embeds: (B, L, D) instead of `decoder_input_ids`.
            labels: (B, L) int64, the target of each position (not shifted again), -100 where there is none.
            use_cache: whether to return the cache; None: not while training.
            vision_features: (B, N, D) raw features of `get_vision_features`, before the bridge.
            **kwargs: those that start with `decoder_` go to the decoder without that prefix (`decoder_position_ids`,
                `decoder_logits_to_keep`: int, indices, or a (B, L) bool mask, which gives logits of shape (positions
                kept, vocabulary)), as do `output_attentions`, `output_hidden_states` and the decoder's cache
                (`past_key_values`, from transformers 5.24 on `cache`); `num_items_in_batch` divides the loss; others
                are ignored.

        """
        if encoder_outputs is None:
            encoder_outputs = self.get_encoder_outputs(pixel_values, vision_features)
        elif pixel_values is not None or vision_features is not None:
            raise ValueError("Pass exactly one of pixel_values, vision_features and encoder_outputs.")
        image_states = encoder_outputs[0]

        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        if use_cache is None and self.training:
            use_cache = False

        outputs = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=to_additive_mask(decoder_attention_mask, image_states.dtype),
            encoder_hidden_states=image_states,
            inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **get_decoder_kwargs(kwargs),
        )
        loss = None
        if labels is not None:
            # shift_labels: `decoder_input_ids` are shifted already.
            loss = ForCausalLMLoss(
                outputs.logits,
                labels=None,
                vocab_size=self.config.decoder.vocab_size,
                num_items_in_batch=kwargs.get("num_items_in_batch"),
                shift_labels=labels,
            )
        return Seq2SeqLMOutput(
            loss=loss,
            logits=outputs.logits,
            **{name: value for name, value in outputs.items() if name in CACHE_NAMES},
            decoder_hidden_states=outputs.hidden_states,
            decoder_attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=image_states,
        )


def get_decoder_kwargs(kwargs: dict) -> dict:
    """Pick what goes on to the decoder: `decoder_*` without that prefix, the cache, and requests for more outputs."""
    prefix = "decoder_"
    picked = {name.removeprefix(prefix): value for name, value in kwargs.items() if name.startswith(prefix)}
    for name in (*CACHE_NAMES, "output_attentions", "output_hidden_states"):
        if kwargs.get(name) is not None:
            picked[name] = kwargs[name]
    return picked


__all__ = ["HfcapEncoderDecoderModel"]
