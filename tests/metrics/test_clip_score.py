"""CLIPScore on tiny random CLIP and SigLIP models, against the formula of the paper on the models' own features."""

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)

from hfcap.metrics.clip_score import PREFIX, ClipScorer

WORDS = ["<pad>", "<s>", "<unk>", "</s>", "A", "photo", "depicts", "a", "dog", "cat", "runs", "on", "grass", "red"]
CANDIDATES = ["a dog runs", "the red cat", "grass"]
REFERENCES = [["a dog", "the dog runs on grass"], ["a cat"], ["the grass", "a red cat", "a dog"]]
VISION = {"image_size": 16, "patch_size": 8, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
TEXT = {"vocab_size": len(WORDS), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
TEXT |= {"max_position_embeddings": 12, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3}


def make_scorer(family: str, **options) -> ClipScorer:
    torch.manual_seed(0)
    heads = {"num_attention_heads": 2}
    config = {"clip": CLIPConfig, "siglip": SiglipConfig}[family](
        text_config=TEXT | heads | {"projection_size": 16},
        vision_config=VISION | heads,
        **({"projection_dim": 8} if family == "clip" else {}),
    )
    model = {"clip": CLIPModel, "siglip": SiglipModel}[family](config)
    with torch.no_grad():
        for parameter in model.parameters():  # a fresh model gives nearly the same features for everything
            if parameter.ndim > 1:
                parameter.mul_(12)
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 3)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>")
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    return ClipScorer(model, CLIPProcessor(image_processor, fast), **options)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(256, size=(20, 24, 3), dtype=np.uint8)) for _ in range(3)]


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0))


def by_the_paper(scorer: ClipScorer, pictures: list[Image.Image]) -> tuple[list[float], list[float]]:
    def text(caption: str) -> torch.Tensor:
        padding = {"padding": "max_length", "max_length": 12} if scorer.name == "siglip" else {}
        inputs = scorer.processor.tokenizer(PREFIX + caption, return_tensors="pt", **padding)
        return scorer.model.get_text_features(**inputs).pooler_output[0]

    scores, with_references = [], []
    with torch.no_grad():
        for picture, candidate, references in zip(pictures, CANDIDATES, REFERENCES, strict=True):
            inputs = scorer.processor.image_processor(images=picture, return_tensors="pt")
            image = scorer.model.get_image_features(**inputs).pooler_output[0]
            score = 2.5 * max(cosine(image, text(candidate)), 0)
            best = max(max(cosine(text(candidate), text(reference)) for reference in references), 0)
            scores.append(score)
            with_references.append(2 * score * best / (score + best) if score + best else 0.0)
    return scores, with_references


@pytest.mark.parametrize("family", ["clip", "siglip"])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_equal_to_the_formula(family, batch_size, pictures):
    scorer = make_scorer(family, batch_size=batch_size)
    head = scorer.model.text_projection if family == "clip" else scorer.model.text_model.head
    seen = set()
    for sign in (1, -1):  # cosines below zero count as zero, and all those of a random model may be
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.mul_(sign)
        result = scorer.score(pictures, CANDIDATES, REFERENCES)
        scores, with_references = by_the_paper(scorer, pictures)
        assert result[f"{family}_score_per_image"] == pytest.approx(scores, abs=1e-5)
        assert result[f"ref_{family}_score_per_image"] == pytest.approx(with_references, abs=1e-5)
        assert result[f"{family}_score"] == pytest.approx(np.mean(scores), abs=1e-5)
        seen |= {round(score, 3) for score in scores}
    assert len(seen) > 1  # a test on zeros alone would say nothing
    assert set(scorer.score(pictures, CANDIDATES)) == {f"{family}_score", f"{family}_score_per_image"}


def test_pictures_are_encoded_once_also_across_objects(pictures, tmp_path, monkeypatch):
    scorer = make_scorer("clip", cache_dir=tmp_path)
    first = scorer.score([*pictures, pictures[0]], [*CANDIDATES, CANDIDATES[0]])
    again = make_scorer("clip", cache_dir=tmp_path)
    monkeypatch.setattr(again.model, "get_image_features", None)  # any call would fail
    assert again.score([*pictures, pictures[0]], [*CANDIDATES, CANDIDATES[0]]) == first
    monkeypatch.undo()
    changed = pictures[0].copy()
    changed.putpixel((3, 3), (0, 0, 0))
    again.score([changed], CANDIDATES[:1])
    assert len(again._known) == 4


def test_other_weights_have_another_cache(pictures, tmp_path):
    make_scorer("clip", cache_dir=tmp_path).score(pictures, CANDIDATES)
    scorer = make_scorer("clip")
    with torch.no_grad():
        scorer.model.visual_projection.weight.mul_(-1)
    other = ClipScorer(scorer.model, scorer.processor, cache_dir=tmp_path)
    assert not other._known
    other.score(pictures, CANDIDATES)
    assert len(list(tmp_path.glob("clip-*.npz"))) == len(list(tmp_path.iterdir())) == 2


def test_another_preprocessing_of_the_same_settings_has_another_cache(pictures, tmp_path, monkeypatch):
    scorer = make_scorer("clip", cache_dir=tmp_path)
    scorer.score(pictures, CANDIDATES)
    processor = type(scorer.processor.image_processor)
    preprocess = processor.preprocess

    def brighter(self, images, *args, **kwargs):
        batch = preprocess(self, images, *args, **kwargs)
        return type(batch)({"pixel_values": batch["pixel_values"] + 0.1})

    monkeypatch.setattr(processor, "preprocess", brighter)
    assert not make_scorer("clip", cache_dir=tmp_path)._known


def test_from_pretrained(pictures, tmp_path):
    scorer = make_scorer("clip")
    scorer.model.save_pretrained(tmp_path)
    scorer.processor.save_pretrained(tmp_path)
    loaded = ClipScorer.from_pretrained(tmp_path)
    expected = scorer.score(pictures, CANDIDATES)["clip_score_per_image"]
    assert loaded.score(pictures, CANDIDATES)["clip_score_per_image"] == pytest.approx(expected, abs=1e-6)


def test_errors(pictures):
    scorer = make_scorer("clip")
    with pytest.raises(ValueError, match="got 0 candidates"):
        scorer.score([], [])
    with pytest.raises(ValueError, match="got 2 candidates and 3 images"):
        scorer.score(pictures, CANDIDATES[:2])
    with pytest.raises(ValueError, match="got 3 candidates and references for 1 images"):
        scorer.score(pictures, CANDIDATES, REFERENCES[:1])
    with pytest.raises(TypeError, match="Linear has no get_image_features"):
        ClipScorer(torch.nn.Linear(1, 1), None)
