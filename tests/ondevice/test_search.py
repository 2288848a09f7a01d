"""Greedy and beam search in NumPy against stock `generate`, on a language model whose logits are a table."""

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from hfcap.ondevice.search import log_softmax, search_for, token_log_probabilities
from hfcap.ondevice.settings import DecodingSettings

VOCAB, END, OTHER_END, START = 12, 1, 2, 0
PICTURES = 6


class TableConfig(PretrainedConfig):
    model_type = "table"
    vocab_size = VOCAB
    num_hidden_layers = 1


class TableModel(PreTrainedModel, GenerationMixin):
    """Logits depend on the picture, the last two tokens and the position: captions end at different times."""

    config_class = TableConfig

    def __init__(self, table):
        super().__init__(TableConfig())
        self.table = table
        self.dummy = torch.nn.Parameter(torch.zeros(1))

    def prepare_inputs_for_generation(self, input_ids, pictures=None, **kwargs):
        return {"input_ids": input_ids, "pictures": pictures}

    def forward(self, input_ids, pictures=None, **kwargs):
        logits = torch.from_numpy(logits_of(self.table, pictures.numpy(), input_ids.numpy()))
        return CausalLMOutputWithPast(logits=logits[:, None])


def logits_of(table, pictures, tokens):
    before = tokens[:, -2] if tokens.shape[1] > 1 else np.zeros(len(tokens), int)
    return table[pictures, tokens[:, -1], before, tokens.shape[1] % 4].copy()


class TableState:
    def __init__(self, table, pictures, tokens):
        self.table, self.pictures, self.tokens = table, pictures, tokens

    def step(self, tokens):
        self.tokens = np.concatenate([self.tokens, tokens[:, None]], axis=1)
        return logits_of(self.table, self.pictures, self.tokens)

    def select(self, rows):
        self.pictures, self.tokens = self.pictures[rows], self.tokens[rows]


@pytest.fixture(scope="module")
def table():
    table = np.random.default_rng(0).normal(size=(PICTURES, VOCAB, VOCAB, 4, VOCAB)).astype(np.float32) * 1.5
    table[:3, ..., END] += 1.0  # some pictures have short captions
    return table


def stock(table, pictures, prompt, settings):
    model = TableModel(table).eval()
    config = GenerationConfig(
        **{
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(settings).items()
            if value is not None
        },
        pad_token_id=VOCAB - 1,
        do_sample=False,
        use_cache=False,
    )
    ids = torch.tensor([prompt] * len(pictures))
    found = model.generate(ids, generation_config=config, pictures=torch.from_numpy(pictures))[:, len(prompt) :]
    rows = []
    for row in found.tolist():
        end = next((place + 1 for place, token in enumerate(row) if token in settings.eos_token_id), len(row))
        rows.append(row[:end])
    return rows


def ours(table, pictures, prompt, settings):
    prompts = np.array([prompt] * len(pictures))
    state = TableState(table, pictures, prompts)
    return search_for(settings)(state, logits_of(table, pictures, prompts), prompts, settings)


SETTINGS = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "early": {"num_beams": 3, "early_stopping": True},
    "never": {"num_beams": 4, "early_stopping": "never"},
    "short": {"num_beams": 3, "length_penalty": 0.2, "early_stopping": True},
    "long": {"num_beams": 3, "length_penalty": 2.0},
    "below zero": {"num_beams": 3, "length_penalty": -1.0, "early_stopping": "never"},
    "no repeats": {"num_beams": 3, "no_repeat_ngram_size": 2},
    "no repeats greedy": {"no_repeat_ngram_size": 1},
    "penalty": {"repetition_penalty": 1.7},
    "penalty beams": {"num_beams": 2, "repetition_penalty": 1.7},
    "least": {"min_new_tokens": 5, "num_beams": 3},
    "least greedy": {"min_length": 6},
    "two ends": {"eos_token_id": (END, OTHER_END), "num_beams": 3, "early_stopping": True},
    "two ends greedy": {"eos_token_id": (END, OTHER_END)},
    "suppressed": {"suppress_tokens": (3, 4, 5), "num_beams": 3},
    "ids outside the vocabulary": {"suppress_tokens": (3, 9999), "eos_token_id": (END, 9999), "min_new_tokens": 3},
    "one token": {"max_new_tokens": 1, "num_beams": 3},
    "all": {"num_beams": 5, "length_penalty": 0.7, "no_repeat_ngram_size": 3, "repetition_penalty": 1.2},
}


@pytest.mark.parametrize("prompt", [[START], [START, 7, 3]], ids=["start", "prompt"])
@pytest.mark.parametrize("name", SETTINGS)
def test_tokens_are_those_of_generate_one_by_one_and_together(table, name, prompt):
    settings = DecodingSettings(**{"eos_token_id": (END,), "max_new_tokens": 12} | SETTINGS[name])
    pictures = np.arange(PICTURES)
    wanted = stock(table, pictures, prompt, settings)
    assert ours(table, pictures, prompt, settings) == wanted
    assert [ours(table, pictures[i : i + 1], prompt, settings)[0] for i in pictures] == wanted
    assert name in ("long", "one token") or len({len(row) for row in wanted}) > 1


def test_probabilities_of_given_tokens(table):
    prompt, settings = [START], DecodingSettings(eos_token_id=(END,), max_new_tokens=6)
    (tokens,) = ours(table, np.array([4]), prompt, settings)
    logits = np.stack(
        [logits_of(table, np.array([4]), np.array([[*prompt, *tokens[:place]]]))[0] for place in range(len(tokens))]
    )
    wanted = [log_softmax(row)[token] for row, token in zip(logits, tokens, strict=True)]
    np.testing.assert_allclose(token_log_probabilities(logits, prompt, tokens, settings), wanted, rtol=1e-6)
    penalised = DecodingSettings(eos_token_id=(END,), max_new_tokens=6, suppress_tokens=(9,))
    assert token_log_probabilities(logits, prompt, [9] * len(tokens), penalised) == [-np.inf] * len(tokens)
