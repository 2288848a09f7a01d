"""Tokens of an ONNX export: the prompt before a caption, and the text of a caption."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from hfcap.errors import ConfigError
from hfcap.ondevice.folder import need_file, read_settings_file
from hfcap.plain_text import split_special

# `clean_up_tokenization` of transformers, for tokenizers that ask for it.
_CLEANED = (" .", " ?", " !", " ,", (" ' ", "'"), " n't", " 'm", " 's", " 've", " 're")


class CaptionTokenizer:
    """The tokenizer of an export, read from `tokenizer.json` and `tokenizer_config.json`.

    Args:
        folder: the export.

    Attributes:
        all_special_ids: ids of the tokens that are left out of captions.

    Raises:
        ConfigError: one of the files is missing or malformed.
    """

    def __init__(self, folder: Path):
        path = need_file(folder, "tokenizer.json")
        self.settings = read_settings_file(folder, "tokenizer_config.json")
        try:
            self.tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises Exception itself for a file that is no tokenizer
            raise ConfigError(f"no tokenizer: {error}", option=str(path), fix="export the model again") from None
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.special_tokens = {
            name: value["content"] if isinstance(value, dict) else value
            for name, value in self.settings.items()
            if re.fullmatch(r"(bos|eos|pad|unk|sep|cls|mask)_token", name) and value
        }
        added = self.tokenizer.get_added_tokens_decoder()
        self.all_special_ids = [token_id for token_id, token in added.items() if token.special]
        self._special_texts = {token.content for token in added.values() if token.special}
        self._special_texts |= set(self.special_tokens.values())
        self._cleans = bool(self.settings.get("clean_up_tokenization_spaces"))
        self.chat_template: str | None = self.settings.get("chat_template")

    def get_added_vocab(self) -> dict[str, int]:
        """Ids of the added tokens, as the tokenizer of transformers gives them."""
        return {token.content: token_id for token_id, token in self.tokenizer.get_added_tokens_decoder().items()}

    def decode(
        self,
        tokens: Sequence[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str:
        """Return the text of token ids, as the tokenizer of transformers does."""
        text = self.tokenizer.decode(list(tokens), skip_special_tokens=skip_special_tokens)
        if self._cleans if clean_up_tokenization_spaces is None else clean_up_tokenization_spaces:
            for found in _CLEANED:
                old, new = found if isinstance(found, tuple) else (found, found[1:])
                text = text.replace(old, new)
        return text

    def prompt_ids(self, prompt: str | None, image_token_id: int, image_seq_length: int) -> list[int]:
        """Return the tokens before a caption, with `image_seq_length` image tokens.

        Args:
            prompt: instruction, or None; what looks like a special token in it is text.
            image_token_id: id of the image token.
            image_seq_length: image features of a picture.

        Raises:
            ConfigError: the export has no chat template, or one that has no image in it.
        """
        image_token = self.tokenizer.id_to_token(image_token_id)
        if self.chat_template is None:
            raise ConfigError("no chat template", option="tokenizer_config.json", fix="export the model again")
        special = sorted(
            (text for text in {*self._special_texts, image_token} if len(text) > 1), key=len, reverse=True
        )
        prompt = split_special(prompt or "", re.compile("|".join(map(re.escape, special))))
        content = [{"type": "image"}, *([{"type": "text", "text": prompt}] if prompt else [])]
        text = render_chat(self.chat_template, [{"role": "user", "content": content}], self.special_tokens)
        if text.count(image_token) != 1:
            raise ConfigError(
                f"it writes {image_token} {text.count(image_token)} times", option="chat template", wanted="once"
            )
        bos = self.special_tokens.get("bos_token")
        text = text.replace(image_token, image_token * image_seq_length)
        # A template that writes BOS itself must not get a second one from the tokenizer.
        return self.tokenizer.encode(text, add_special_tokens=not (bos and text.startswith(bos))).ids


def render_chat(template: str, messages: list[dict[str, Any]], special_tokens: dict[str, str]) -> str:
    """Render a chat template as `apply_chat_template` of transformers does, with a generation prompt.

    Raises:
        ConfigError: the template refuses the messages, or is malformed.
    """
    from jinja2 import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}`, which marks what is to be learned and writes nothing."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser):
            next(parser.stream)
            return parser.parse_statements(["name:endgeneration"], drop_needle=True)

    def raise_exception(message: str):
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.globals["raise_exception"] = raise_exception
    try:
        return environment.from_string(template).render(
            messages=messages, tools=None, documents=None, add_generation_prompt=True, **special_tokens
        )
    except TemplateError as error:
        raise ConfigError(f"the chat template cannot be used: {error}", option="model") from None
