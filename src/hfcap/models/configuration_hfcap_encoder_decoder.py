"""Configuration of the cross-attention captioner."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import VisionEncoderDecoderConfig


@strict
class HfcapEncoderDecoderConfig(VisionEncoderDecoderConfig):
    """Configuration of [`HfcapEncoderDecoderModel`]: vision encoder, bridge, decoder with cross-attention.

    With a ViT and the bridge options left at their defaults the model is a stock `VisionEncoderDecoderModel`.

    Args:
        encoder: config of any `AutoModel` vision encoder, CNN or ViT; of a two-tower config the vision part is taken.
        decoder: config of a causal language model with cross-attention (GPT-2, BERT).
        pad_token_id: of the decoder's tokenizer; None takes the decoder config's. Likewise the next two.
        decoder_start_token_id: the token every caption starts from; None takes the decoder config's BOS.
        eos_token_id: the token that ends a caption.
        vision_feature_layer: index into the encoder's `hidden_states`; None is `last_hidden_state`, as in stock.
        vision_feature_select_strategy: "full" keeps CLS and register tokens, as in stock; "default" drops them.
        feature_layer_norm: normalise the raw features before they are projected.
        feature_dropout: dropout probability of the raw features, after their LayerNorm.
        image_token_dropout: probability that an image token is left out (set to zero) as a whole.
        image_position_embeddings: add learned embeddings of the position in the image, after the projection.
        image_dropout: dropout probability of the projected features.
        num_bridge_layers: Transformer encoder layers (pre-norm) over the projected image tokens.
        num_bridge_heads: their attention heads; None takes the decoder's number.
        bridge_dropout: dropout probability inside them.
        image_size: side of the pictures in pixels, or [height, width]; None takes the encoder config's.
        image_seq_length: number of image tokens of one picture. Measured when the model is built.
        vision_hidden_size: features per patch of the encoder. Measured when the model is built.
        vision_grid: [rows, columns] of patches of one picture. Measured when the model is built.

    """

    model_type = "hfcap_encoder_decoder"

    pad_token_id: int | None = None
    decoder_start_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    vision_feature_layer: int | None = None
    vision_feature_select_strategy: Literal["default", "full"] = "full"
    feature_layer_norm: bool = False
    feature_dropout: float = 0.0
    image_token_dropout: float = 0.0
    image_position_embeddings: bool = False
    image_dropout: float = 0.0
    num_bridge_layers: int = 0
    num_bridge_heads: int | None = None
    bridge_dropout: float = 0.1
    image_size: int | list[int] | None = None
    image_seq_length: int | None = None
    vision_hidden_size: int | None = None
    vision_grid: list[int] | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.encoder = getattr(self.encoder, "vision_config", None) or self.encoder
        self.decoder.is_decoder = True
        self.decoder.add_cross_attention = True
        # Composite configs have no token ids of their own, and generate() fails silently where only one of the two
        # configs has them: keep both equal.
        start = getattr(self.decoder, "decoder_start_token_id", None)
        start = start if start is not None else self.decoder.bos_token_id
        self.decoder_start_token_id = self.decoder_start_token_id if self.decoder_start_token_id is not None else start
        self.pad_token_id = self.pad_token_id if self.pad_token_id is not None else self.decoder.pad_token_id
        self.eos_token_id = self.eos_token_id if self.eos_token_id is not None else self.decoder.eos_token_id
        for name in ("pad_token_id", "decoder_start_token_id", "eos_token_id"):
            setattr(self.decoder, name, getattr(self, name))


__all__ = ["HfcapEncoderDecoderConfig"]
