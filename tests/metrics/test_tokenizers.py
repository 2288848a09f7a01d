"""sacrebleu's tokenizers for captions that are not English, and the warning where `ptb` cannot split them."""

import importlib.util
import json
import re
import warnings
from pathlib import Path

import pytest
from make_golden_tokenizers import TOKENIZERS as OF_SACREBLEU
from make_golden_tokenizers import images, original_bleu, original_tokens, strings

from hfcap import metrics
from hfcap.metrics import CiderDReward, compute_metrics, confidence_intervals, document_frequencies, split_captions
from hfcap.metrics.tokenizers import TOKENIZERS
from refusals import refused

GOLDEN = json.loads((Path(__file__).parent / "golden_tokenizers.json").read_text())
CHINESE = [
    f"一个穿{colour}衣服的{who}在{place}。"
    for colour in "红黄蓝"
    for who in ("男人", "女人")
    for place in ("跑", "走")
]

pytestmark = pytest.mark.filterwarnings("ignore:CIDEr weighs")


@pytest.fixture(autouse=True)
def not_warned_yet(monkeypatch):
    monkeypatch.setattr("hfcap.metrics.tokenizers._has_warned", False)


@pytest.mark.parametrize("tokenizer", OF_SACREBLEU)
def test_tokens_are_those_of_sacrebleu(tokenizer):
    assert len(GOLDEN["captions"]) > 400
    tokens = split_captions(GOLDEN["captions"], tokenizer)
    triples = zip(GOLDEN["captions"], GOLDEN["tokens"][tokenizer], tokens, strict=True)
    assert not [triple for triple in triples if triple[1] != triple[2]]


def test_the_golden_captions_are_those_of_the_suite():
    assert GOLDEN["captions"] == [caption for caption in strings() if len(caption) < 1000]


@pytest.mark.parametrize("tokenizer", OF_SACREBLEU)
def test_bleu_has_the_digits_of_sacrebleu(tokenizer):
    result = compute_metrics(*images(tokenizer), ("bleu",), tokenizer=tokenizer)
    found = [result[f"bleu_{order}"] for order in (1, 2, 3, 4)]
    assert found == pytest.approx(GOLDEN["bleu"][tokenizer], abs=1e-9)
    assert 0.1 < min(found) < max(found) < 1


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("sacrebleu") is None, reason="the original needs sacrebleu")
def test_sacrebleu_side_by_side():
    captions = strings() + [f"a{chr(code)}b 1{chr(code)}2{chr(code)}" for code in range(0x30000) if code >> 11 != 27]
    for tokenizer in OF_SACREBLEU:
        assert split_captions(captions, tokenizer) == original_tokens(captions, tokenizer)
        assert original_bleu(tokenizer) == pytest.approx(GOLDEN["bleu"][tokenizer], abs=1e-12)


def test_figures_of_captions_without_spaces_are_zero_with_ptb_and_said_once():
    references = [[caption] for caption in CHINESE]
    predictions = CHINESE[1:] + CHINESE[:1]
    with pytest.warns(UserWarning, match="100% of 12 captions have no spaces between words.*--tokenizer zh") as caught:
        result = compute_metrics(predictions, references)
        compute_metrics(predictions, references)
    assert len([w for w in caught if "no spaces" in str(w.message)]) == 1
    assert max(result["bleu_4"], result["cider"]) < 0.01
    for tokenizer in ("zh", "char"):
        result = compute_metrics(predictions, references, tokenizer=tokenizer)
        assert min(result["bleu_4"], result["rouge_l"], result["cider"]) > 0.3


@pytest.mark.parametrize(
    ("captions", "share"),
    [
        (["男の人が、赤い自転車に乗っている"], "100%"),
        (["ผู้ชายกำลังขี่จักรยานบนถนน", "a man rides a bike"], "50%"),
        (["บุรุษ ขี่ จักรยาน"] + ["a dog"] * 4, "20%"),
    ],
)
def test_the_share_is_that_of_captions_in_scripts_without_spaces(captions, share):
    with pytest.warns(UserWarning, match=f"^{share} of {len(captions)} captions have no spaces"):
        split_captions(captions)


def test_other_tokenizers_leave_scripts_unsplit_too():
    for tokenizer, captions, choose in (("intl", CHINESE, "zh (Chinese) or char"), ("zh", ["ผู้ชายกำลังขี่"], "char")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hfcap.metrics.tokenizers._has_warned", False)
            with pytest.warns(
                UserWarning, match=rf"the tokenizer {tokenizer}.*Choose --tokenizer {re.escape(choose)} "
            ):
                split_captions(captions, tokenizer)


@pytest.mark.parametrize(
    "caption",
    [
        "dog",
        "a dog",
        "",
        "Zwei Männer mit „E-Gitarren“",
        "한 남자가 자전거를 타고 있다",
        "رجل يركب دراجة",
        "رجل",  # what a captioner says that has just begun
        "a T恤",
        "Мужчина едет",
        "…",
    ],
)
def test_captions_with_spaces_are_no_warning(caption):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split_captions([caption])
        split_captions([caption], "intl")
        split_captions([])


def test_an_unknown_tokenizer_is_refused():
    for call in (lambda: split_captions(["a"], "13a"), lambda: compute_metrics(["a"], [["a"]], tokenizer="13a")):
        with pytest.raises(ValueError, match="tokenizer is '13a'; wanted one of ptb, intl, zh, char"):
            call()
    assert metrics.TOKENIZERS == TOKENIZERS == ("ptb", *OF_SACREBLEU)


def test_meteor_is_for_english():
    with refused(option="tokenizer", got="zh", wanted="ptb", fix="remove meteor"):
        compute_metrics(["a"], [["a"]], ("meteor",), tokenizer="zh")


def test_document_frequencies_keep_their_tokenizer(tmp_path):
    references = [[caption] for caption in CHINESE]
    path = tmp_path / "idf.npz"
    document_frequencies(references, "zh").save(path)
    direct = compute_metrics(CHINESE, references, ("cider",), tokenizer="zh")
    assert compute_metrics(CHINESE, references, ("cider",), idf=path, tokenizer="zh") == direct
    with pytest.raises(
        ValueError, match="document frequencies are of the tokenizer zh, the captions are split by char"
    ):
        confidence_intervals(CHINESE, references, ("cider",), idf=path, tokenizer="char")
    with pytest.raises(ValueError, match="of the tokenizer zh, the captions are split by ptb"):
        CiderDReward({"1": ["一"]}, idf=path)


def test_a_reward_splits_by_its_tokenizer():
    references = {str(number): [caption] for number, caption in enumerate(CHINESE)}
    reward = CiderDReward(references, tokenizer="zh")
    expected = compute_metrics(CHINESE, list(references.values()), ("cider",), tokenizer="zh")["cider_per_image"]
    assert reward.score(CHINESE, list(references)) == pytest.approx(expected, rel=1e-6)
    assert reward.score(["男"], ["0"]) > 0  # a token of its own, and one that not all images have
