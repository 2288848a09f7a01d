"""Processor of the LLaVA-style captioner: pictures and text in, `pixel_values` and `input_ids` out."""

from transformers import PreTrainedTokenizerBase
from transformers.processing_utils import MultiModalData, ProcessorMixin

IMAGE_TOKEN = "<image>"

# One message after another, without role names: a picture is `<image>` and a line break, a system or user message ends
# with a line break, an assistant message with the EOS token. The prompt for "describe it" is thus `<image>\ndescribe
# it\n`, which is the generation prompt as well: what follows the line break is the caption. BOS is left to the
# tokenizer, which adds it where the language model was trained with one. `generation` marks what is to be learned.
CAPTION_CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {%- if message.role not in ['system', 'user', 'assistant'] -%}
        {{- raise_exception("role is '" ~ message.role ~ "', it must be system, user or assistant") -}}
    {%- endif -%}
    {%- set ns = namespace(text='') -%}
    {%- if message.content is string -%}
        {%- set ns.text = message.content -%}
    {%- else -%}
        {%- for item in message.content -%}
            {%- set ns.text = ns.text ~ ('<image>\\n' if item.type == 'image' else item.text) -%}
        {%- endfor -%}
    {%- endif -%}
    {%- if message.role == 'assistant' -%}
        {%- generation -%}{{- ns.text ~ (eos_token or '') -}}{%- endgeneration -%}
    {%- else -%}
        {{- ns.text ~ ('' if ns.text.endswith('\\n') else '\\n') -}}
    {%- endif -%}
{%- endfor -%}
"""

# Put before a text-only chat template: turns lists of content items into strings, so that the template sees none.
_FLATTEN_CONTENT = """\
{%- set flat = namespace(messages=[], text='') -%}
{%- for message in messages -%}
    {%- if message.content is defined and message.content is not string -%}
        {%- set flat.text = '' -%}
        {%- for item in message.content -%}
            {%- set flat.text = flat.text ~ ('<image>\\n' if item.type == 'image' else item.text) -%}
        {%- endfor -%}
        {%- set flat.messages = flat.messages + [dict(message, content=flat.text)] -%}
    {%- else -%}
        {%- set flat.messages = flat.messages + [message] -%}
    {%- endif -%}
{%- endfor -%}
{%- set messages = flat.messages -%}
"""


def add_image_token(tokenizer: PreTrainedTokenizerBase, image_token: str = IMAGE_TOKEN) -> int:
    """Add the image placeholder to the tokenizer where it is missing, and give its id.

    Afterwards call `language_model.resize_token_embeddings(len(tokenizer))`.
    """
    if image_token not in tokenizer.get_vocab():
        tokenizer.add_tokens([image_token], special_tokens=True)
    return tokenizer.convert_tokens_to_ids(image_token)


def get_default_chat_template(tokenizer: PreTrainedTokenizerBase, image_token: str = IMAGE_TOKEN) -> str:
    """Give the tokenizer's own chat template made to accept image items, or `CAPTION_CHAT_TEMPLATE` if it has none."""
    own = tokenizer.chat_template
    template = _FLATTEN_CONTENT + own if isinstance(own, str) else CAPTION_CHAT_TEMPLATE
    return template.replace(IMAGE_TOKEN, image_token)


class HfcapLlavaProcessor(ProcessorMixin):
    """Image processor, tokenizer and chat template of [`HfcapLlavaForConditionalGeneration`].

    Each `image_token` in the text becomes `image_seq_length` of them, one for each image feature.

    Args:
        image_processor: an image processor that gives `pixel_values` of one size.
        tokenizer: a tokenizer that knows `image_token` as one token.
        chat_template: Jinja template; None takes the one of `get_default_chat_template`.
        image_token: the placeholder in the text.
        image_seq_length: image tokens for one picture; `model.config.image_seq_length`.
        caption_prompt: the instruction the captioner was trained with, for whoever captions without one of their own.

    Raises:
        ValueError: the tokenizer does not know `image_token`, or `image_seq_length` is not positive.

    """

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        chat_template=None,
        image_token=IMAGE_TOKEN,
        image_seq_length=None,
        caption_prompt=None,
        **kwargs,
    ):
        if image_token not in tokenizer.get_vocab():
            raise ValueError(
                f"The tokenizer has {len(tokenizer)} tokens, {image_token!r} is not among them. Call "
                "add_image_token(tokenizer) and model.resize_token_embeddings(len(tokenizer)) first."
            )
        if not isinstance(image_seq_length, int) or image_seq_length < 1:
            raise ValueError(
                f"image_seq_length is {image_seq_length}, it must be the positive number of image tokens the model "
                "makes of one picture: pass model.config.image_seq_length."
            )
        self.image_token = image_token
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        self.image_seq_length = image_seq_length
        self.caption_prompt = caption_prompt
        if chat_template is None:
            chat_template = get_default_chat_template(tokenizer, image_token)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs) -> str:
        """Give the text that one placeholder expands to; the same for each picture."""
        return self.image_token * self.image_seq_length

    def _get_num_multimodal_tokens(self, image_sizes: list[list[int]] | None = None, **kwargs) -> MultiModalData:
        """Count the image tokens of pictures of `image_sizes`; serving engines ask for it."""
        if image_sizes is None:
            return MultiModalData()
        count = len(image_sizes)
        return MultiModalData(num_image_tokens=[self.image_seq_length] * count, num_image_patches=[1] * count)


__all__ = ["CAPTION_CHAT_TEMPLATE", "HfcapLlavaProcessor", "add_image_token", "get_default_chat_template"]
