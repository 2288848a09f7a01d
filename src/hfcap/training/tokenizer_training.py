"""Training of the byte-level BPE tokenizer of a decoder from scratch."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hfcap.scripts import JOINERS, LETTER, SPACELESS

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"


def train_tokenizer(captions: Iterable[str], vocab_size: int, plain_text: bool = False) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on captions; no text is unknown to it (Sennrich et al., 2016; GPT-2).

    Args:
        captions: training captions.
        vocab_size: most entries, special tokens included; fewer where the captions have no more merges.
        plain_text: read and write lower case without punctuation, as caption metrics do.

    Returns:
        A tokenizer with `<pad>`, `<bos>` and `<eos>`. Words keep their leading space, the first one included, so that
        a word has the same tokens wherever it stands. Scripts without spaces (`hfcap.scripts`) are read letter by
        letter.
    """
    captions = list(captions)
    tokenizer = Tokenizer(models.BPE())
    # No Strip(): it would eat the line break between image and caption, and with it the token that starts a caption.
    steps = [normalizers.NFC()]
    if plain_text:
        signs = rf"(?:[^\p{{L}}\p{{M}}\p{{N}}\s'{JOINERS}-]|(?<![\p{{L}}\p{{M}}])[{JOINERS}])+"
        steps += [normalizers.Lowercase(), normalizers.Replace(Regex(signs), " ")]
        steps += [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Replace(Regex(r" $"), "")]
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    if any(map(SPACELESS.search, captions)):
        # Merges across letters would make whole sentences tokens.
        split = pre_tokenizers.Split(Regex(f" ?{LETTER}"), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        # The pre-tokenizer would give each letter a leading space.
        steps += [normalizers.Replace(Regex(r"\A +"), ""), normalizers.Prepend(" ")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=3,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS)
