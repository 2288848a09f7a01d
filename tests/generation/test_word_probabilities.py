"""Log-probabilities of the captions that a captioner gives, by token and word."""

import pytest

from hfcap.data.reading import loads_of
from hfcap.generation.caption import caption_rows
from hfcap.generation.sampling import Sampling, sample_stream
from hfcap.generation.word_probabilities import scored_caption_stream
from hfcap.samples import Sample, word_log_probabilities


@pytest.mark.parametrize("family", ["llava", "encoder_decoder"])
def test_captions_are_those_of_beam_search_and_greedy_ones_have_the_same_log_probabilities(
    build_tiny, scene_rows, family
):
    model, processor = build_tiny(family)
    rows = [{"image": row["image"]} for row in scene_rows.select(range(4))]
    model.generation_config.num_beams = 3
    found = dict(scored_caption_stream(model, processor, loads_of(rows), batch_size=3))
    assert [found[i].caption for i in range(4)] == caption_rows(model, processor, rows)
    model.generation_config.num_beams = 1
    found = dict(scored_caption_stream(model, processor, loads_of(rows), batch_size=3))
    greedy = dict(sample_stream(model, processor, loads_of(rows), str, Sampling(1, temperature=0)))
    for index in range(4):
        assert found[index].tokens == greedy[index][0].tokens
        assert found[index].log_probabilities == pytest.approx(greedy[index][0].log_probabilities, abs=1e-4)


def test_a_word_has_the_probability_of_all_its_tokens(build_tiny):
    _, processor = build_tiny("encoder_decoder")
    ids = [processor.tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("zebra", "-", "fox")]
    assert len(ids[0]) > 1
    tokens = [*ids[0], *ids[1], *ids[2], processor.tokenizer.eos_token_id]
    logs = tuple(-float(2**i) for i in range(len(tokens)))
    words = dict(word_log_probabilities(processor.tokenizer, Sample("zebra-fox", tuple(tokens), logs, False)))
    assert words == {"zebra": sum(logs[: len(ids[0])]), "fox": sum(logs[len(ids[0]) : -1])}
