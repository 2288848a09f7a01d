"""The tokenizer of the metrics in training: evaluations, the best checkpoint, rewards, and the words of an encoder."""

import datasets
import pytest

from hfcap.evaluation import judge
from hfcap.metrics import split_captions
from hfcap.training import trainer as trainer_module
from hfcap.training.collators import CaptionCollator
from hfcap.training.rewards import CiderDOfEnded, with_end
from hfcap.training.tagging import choose_words
from tiny.training import make_trainer

CHINESE = [f"一个穿{colour}衣服的{who}在跑。" for colour in "红黄蓝绿" for who in ("男人", "女人")]

pytestmark = pytest.mark.filterwarnings("ignore:CIDEr weighs", "ignore:.*no spaces between words")


@pytest.fixture
def chinese_rows(scene_rows):
    rows = scene_rows.select(range(len(CHINESE))).remove_columns("captions")
    return rows.add_column("captions", [[text] for text in CHINESE], feature=datasets.List(datasets.Value("string")))


@pytest.mark.parametrize(("tokenizer", "is_told"), [("ptb", False), ("zh", True), ("char", True)])
def test_evaluations_of_chinese_captions_tell_good_from_bad(
    tmp_path, build_tiny, chinese_rows, monkeypatch, tokenizer, is_told
):
    """With ptb all checkpoints have the same figures, and the best one is any."""
    model, processor = build_tiny("llava")
    trainer = make_trainer(
        model, CaptionCollator(processor, model.config), chinese_rows, tmp_path, tokenizer=tokenizer
    )
    figures = []
    for captions in (["一个红衣服的人跑"] * 8, [text.replace("跑", "走") for text in CHINESE]):
        monkeypatch.setattr(trainer_module, "caption_sharded", lambda *_, captions=captions, **__: captions)
        figures.append(trainer.caption_metrics(trainer.eval_dataset)["cider"])
    assert (figures[1] > figures[0] + 1) == is_told
    assert (figures[1] > 1e-6) == is_told


def test_an_evaluation_says_its_tokenizer(chinese_rows):
    evaluation = judge(CHINESE, chinese_rows, {}, "zh")
    assert evaluation.tokenizer == "zh"
    assert evaluation.value("bleu_4") == pytest.approx(1)


@pytest.mark.parametrize("tokenizer", ["ptb", "intl", "zh", "char"])
def test_the_end_of_a_caption_is_one_token(tokenizer):
    plain, ended = split_captions([CHINESE[0], with_end(CHINESE[0], tokenizer)], tokenizer)
    assert ended.split()[:-1] == plain.split()


@pytest.mark.parametrize("tokenizer", ["zh", "char"])
def test_rewards_prefer_a_better_and_a_finished_caption(tokenizer):
    reward = CiderDOfEnded({str(number): [text] for number, text in enumerate(CHINESE)}, tokenizer)
    texts = [CHINESE[0], CHINESE[0], CHINESE[0][:4]]
    whole, unfinished, cut = reward(texts, ["0"] * 3, ended=[True, False, False])
    assert whole > unfinished > cut


def test_an_encoder_learns_the_words_of_its_language():
    assert {"红", "女"} <= choose_words([[text] for text in CHINESE], "zh").keys()
    assert not {"红", "女"} & choose_words([[text] for text in CHINESE]).keys()
