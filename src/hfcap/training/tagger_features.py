"""The classifier that a tagger trains, and its cached features, a captioner's own among them."""

from collections.abc import Sequence

import datasets
import torch
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from hfcap import runs
from hfcap.data.augmentation import View
from hfcap.data.features import PLAIN, FeatureCache, cache_features
from hfcap.generation.inputs import BLANK
from hfcap.generation.loading import load_captioner
from hfcap.models.image_classifier import PooledFeatures, classifier_of_encoder, pooled_features
from hfcap.models.model_utils import in_eval
from hfcap.models.vision_features import encoder_features, find_encoder
from hfcap.training.build import build_encoder
from hfcap.training.tagger_arguments import TaggerArguments


def build_tagger(
    args: TaggerArguments, tags: list[str]
) -> tuple[PreTrainedModel, BaseImageProcessor, PreTrainedModel | None]:
    """Build the classifier around `encoder`, `encoder_config` or the encoder of the captioner `model`.

    Returns:
        The classifier, its image processor, and the captioner, if there is one.

    Raises:
        ConfigError: a part cannot be loaded, or transformers has no image classifier of the encoder's type.
    """
    if args.model is None:
        encoder, image_processor = build_encoder(args)
        return classifier_of_encoder(encoder, tags), image_processor, None
    captioner, processor = load_captioner(runs.resolve_model(args.model).path)
    return classifier_of_encoder(find_encoder(captioner), tags), processor.image_processor, captioner


class TaggerFeatures:
    """Cached features of some rows of a data set, as `CaptionDataset` takes them: (1, D) per picture.

    Feature maps are pooled here, once, and their means held in memory: a map takes as long to read as a hundred means.

    Args:
        cache: of the whole data set.
        indices: its rows that are here, in order.
    """

    def __init__(self, cache: FeatureCache, indices: list[int]):
        self.cache, self.indices = cache, indices
        self.means = {}
        if cache.shape[0] > 1:
            self.means = {view: torch.stack([_mean(cache, i, view) for i in indices]) for view in cache.folders}

    def __len__(self) -> int:
        """Count the pictures."""
        return len(self.indices)

    def read(self, index: int, view: View = PLAIN) -> torch.Tensor:
        """Return what the head gets for a picture, (1, D) float32; of a cached feature map its mean."""
        return self.means[view][index] if self.means else self.cache.read(self.indices[index], view=view)


def _mean(cache: FeatureCache, index: int, view: View) -> torch.Tensor:
    return cache.read(index, view=view).mean(dim=0, keepdim=True)


def cache_tagger_features(
    model: PreTrainedModel,
    image_processor: BaseImageProcessor,
    captioner: PreTrainedModel | None,
    rows: datasets.Dataset,
    cache_dir: str,
    views: Sequence[View] = (PLAIN,),
    dtype: str = "float16",
) -> FeatureCache:
    """Give the features of a frozen encoder for all rows, from disk where they are there.

    Of a captioner whose classifier pools by the mean, these are the feature maps that the captioner was trained with:
    they are there already. Otherwise a picture takes one vector in place of a map.
    """
    source = PooledFeatures(model)
    if captioner is not None and _is_mean_of(captioner, model, image_processor):
        source = captioner
    return cache_features(source, image_processor, rows, cache_dir, views=views, dtype=dtype)


@torch.no_grad()
def _is_mean_of(captioner: PreTrainedModel, model: PreTrainedModel, image_processor: BaseImageProcessor) -> bool:
    """Whether the head gets the mean of the captioner's features, tried on a picture."""
    pictures = image_processor([BLANK], return_tensors="pt")
    pictures["pixel_values"] = pictures["pixel_values"] + torch.linspace(-1, 1, pictures["pixel_values"].shape[-1])
    encoder = find_encoder(captioner)
    with in_eval(encoder), in_eval(model):
        maps = encoder_features(captioner, encoder, pictures)
        pooled = pooled_features(model, pictures["pixel_values"])
    return maps.shape[-1] == pooled.shape[-1] and torch.allclose(maps.mean(dim=1), pooled, rtol=1e-3, atol=1e-4)
