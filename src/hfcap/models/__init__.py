"""The two model families of hfcap, in transformers' own conventions.

Importing this package registers them with the Auto classes, so that `AutoModelForImageTextToText` and `AutoProcessor`
load their checkpoints.
"""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

from .configuration_hfcap_encoder_decoder import HfcapEncoderDecoderConfig
from .configuration_hfcap_llava import HfcapLlavaConfig
from .image_features import (
    ImageFeatureShape,
    encode_images,
    get_vision_config,
    measure_image_features,
)
from .modeling_hfcap_encoder_decoder import HfcapEncoderDecoderModel
from .modeling_hfcap_llava import HfcapLlavaForConditionalGeneration, HfcapLlavaModel, HfcapLlavaPreTrainedModel
from .pretrained import load_vision_encoder
from .processing_hfcap_encoder_decoder import HfcapEncoderDecoderProcessor
from .processing_hfcap_llava import HfcapLlavaProcessor, add_image_token

AutoConfig.register(HfcapLlavaConfig.model_type, HfcapLlavaConfig, exist_ok=True)
AutoModel.register(HfcapLlavaConfig, HfcapLlavaModel, exist_ok=True)
AutoModelForImageTextToText.register(HfcapLlavaConfig, HfcapLlavaForConditionalGeneration, exist_ok=True)
AutoProcessor.register(HfcapLlavaConfig, HfcapLlavaProcessor, exist_ok=True)

AutoConfig.register(HfcapEncoderDecoderConfig.model_type, HfcapEncoderDecoderConfig, exist_ok=True)
AutoModelForImageTextToText.register(HfcapEncoderDecoderConfig, HfcapEncoderDecoderModel, exist_ok=True)
AutoProcessor.register(HfcapEncoderDecoderConfig, HfcapEncoderDecoderProcessor, exist_ok=True)

__all__ = [
    "HfcapEncoderDecoderConfig",
    "HfcapEncoderDecoderModel",
    "HfcapEncoderDecoderProcessor",
    "HfcapLlavaConfig",
    "HfcapLlavaForConditionalGeneration",
    "HfcapLlavaModel",
    "HfcapLlavaPreTrainedModel",
    "HfcapLlavaProcessor",
    "ImageFeatureShape",
    "add_image_token",
    "encode_images",
    "get_vision_config",
    "load_vision_encoder",
    "measure_image_features",
]
