"""Usage code: the Python that captions one image with stock transformers, for each model type.

A card prints these lines, and the verification of an export runs them: what people copy is what was compared.
"""

import json

from hfcap.models.model_types import ModelTypeSpec, spec_of_type

CHAT = """\
content = [{content}]
inputs = processor.apply_chat_template(
    [{{"role": "user", "content": content}}],
    add_generation_prompt=True,
    tokenize=True,
    return_dict=True,
    return_tensors="pt",
)
"""
TEXT = 'inputs = processor(images=picture, text={text}, return_tensors="pt")\n'
PICTURE = 'inputs = processor(images=picture, return_tensors="pt")\n'
# The tokenizer may put other special tokens around a text (BERT's [CLS] and [SEP]) than training did.
PROMPT = 'prompt = processor.tokenizer({text}, add_special_tokens=False)["input_ids"]\n'
CAPTION = """\
inputs = inputs.to(model.device, model.dtype)
tokens = model.generate(**inputs{settings})[0{behind}]
caption = processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
"""

# JavaScript; `{weights}` is the repository.
WEB_CAPTION = """\
import {{ pipeline }} from "@huggingface/transformers";

const captioner = await pipeline("image-to-text", "{weights}");
const [{{ generated_text }}] = await captioner("PHOTO.jpg");
console.log(generated_text.trim());
"""
WEB_CHAT = """\
import {{ AutoModelForImageTextToText, AutoProcessor, load_image }} from "@huggingface/transformers";

const processor = await AutoProcessor.from_pretrained("{weights}");
const model = await AutoModelForImageTextToText.from_pretrained("{weights}");
const content = [{content}];
const prompt = processor.apply_chat_template([{{ role: "user", content }}], {{ add_generation_prompt: true }});
const inputs = await processor(await load_image("PHOTO.jpg"), prompt);
const tokens = await model.generate(inputs);
const caption = tokens.slice(null, [inputs.input_ids.dims.at(-1), null]);
console.log(processor.batch_decode(caption, {{ skip_special_tokens: true }})[0].trim());
"""


def web_code(model_type: str, prompt: str | None, weights: str) -> str:
    """JavaScript that captions one image with transformers.js.

    Args:
        model_type: of the captioner that was exported to ONNX.
        prompt: the instruction it was trained with, or None.
        weights: repository that it is loaded from.
    """
    if spec_of_type(model_type).prompt != "chat":
        return WEB_CAPTION.format(weights=weights)
    items = ['{ type: "image" }', *([f'{{ type: "text", text: {json.dumps(prompt)} }}'] if prompt else [])]
    return WEB_CHAT.format(weights=weights, content=", ".join(items))


def usage_code(model_type: str, prompt: str | None) -> str:
    """Lines that make a `caption` (str) of a `picture` (RGB PIL image) with `model`, `processor` and `torch`.

    Args:
        model_type: a key of `hfcap.models.model_types.MODEL_TYPES`.
        prompt: instruction that the captioner was trained with, or None.

    Raises:
        ConfigError: the type is not in the table.
    """
    spec = spec_of_type(model_type)
    # `generate` of these types asks one of their parts, which does not know the settings in generation_config.json.
    settings = ", generation_config=model.generation_config" if spec.generate_by else ""
    # The caption begins behind the prompt; an encoder-decoder gives no other tokens.
    dropped = " - 1" if spec.generate_drops_last else ""
    behind = f', inputs["{_ids_name(spec)}"].shape[1]{dropped} :'
    if spec.layout == "encoder_decoder" and not prompt:
        behind = ""
    return _inputs(spec, prompt) + CAPTION.format(settings=settings, behind=behind)


def _inputs(spec: ModelTypeSpec, prompt: str | None) -> str:
    text = json.dumps(prompt or "", ensure_ascii=False)
    if spec.layout == "encoder_decoder" and not prompt:
        return PICTURE  # `generate` knows the start token
    if spec.prompt == "chat":
        items = ['{"type": "image", "image": picture}'] + ([f'{{"type": "text", "text": {text}}}'] if prompt else [])
        return CHAT.format(content=", ".join(items))
    if spec.image_token_in_text:
        return TEXT.format(text=f"processor.image_token + {text}" if prompt else "processor.image_token")
    if spec.image_tokens:
        return TEXT.format(text=text)
    names, places = ["start"], [f"model.config.{spec.start_token}"]
    if spec.generate_drops_last:
        names, places = [*names, "end"], [*places, f"model.config.{spec.end_token}"]
    ids = [names[0], *(["*prompt"] if prompt else []), *names[1:]]
    encoded = PROMPT.format(text=text) if prompt else ""
    tokens = f'inputs["{_ids_name(spec)}"] = torch.tensor([[{", ".join(ids)}]])'
    return PICTURE + encoded + f"{', '.join(names)} = {', '.join(places)}\n{tokens}\n"


def _ids_name(spec: ModelTypeSpec) -> str:
    return "decoder_input_ids" if spec.layout == "encoder_decoder" else "input_ids"
