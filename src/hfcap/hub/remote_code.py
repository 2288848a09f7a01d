"""Exports with their code, for `trust_remote_code=True` without hfcap."""

import ast
import json
import shutil
from pathlib import Path

import hfcap.models
from hfcap.atomic_files import write_json
from hfcap.models import HfcapEncoderDecoderConfig, HfcapLlavaConfig

# `module.Class` for each Auto class, as the Hub's `auto_map` wants it.
AUTO_MAP = {
    HfcapLlavaConfig.model_type: {
        "AutoConfig": "configuration_hfcap_llava.HfcapLlavaConfig",
        "AutoModel": "modeling_hfcap_llava.HfcapLlavaModel",
        "AutoModelForImageTextToText": "modeling_hfcap_llava.HfcapLlavaForConditionalGeneration",
        "AutoProcessor": "processing_hfcap_llava.HfcapLlavaProcessor",
    },
    HfcapEncoderDecoderConfig.model_type: {
        "AutoConfig": "configuration_hfcap_encoder_decoder.HfcapEncoderDecoderConfig",
        "AutoModelForImageTextToText": "modeling_hfcap_encoder_decoder.HfcapEncoderDecoderModel",
        "AutoProcessor": "processing_hfcap_encoder_decoder.HfcapEncoderDecoderProcessor",
    },
}
PACKAGE = Path(hfcap.models.__file__).parent


def add_code(folder: Path, model_type: str) -> list[str]:
    """Copy the modules that a saved checkpoint of ours needs into its folder, and name its classes in `auto_map`.

    The files lie flat, since code on the Hub may import siblings only; the modules of `hfcap.models` do.

    Args:
        folder: of a saved model and processor.
        model_type: a key of `AUTO_MAP`.

    Returns:
        The names of the files copied.

    Raises:
        RuntimeError: a module imports something from hfcap that is no sibling.
    """
    auto_map = AUTO_MAP[model_type]
    modules = _with_siblings({reference.split(".")[0] for reference in auto_map.values()})
    for name in modules:
        shutil.copyfile(PACKAGE / f"{name}.py", folder / f"{name}.py")
    for file in ("config.json", "processor_config.json"):
        settings = json.loads((folder / file).read_text(encoding="utf-8"))
        write_json(folder / file, settings | {"auto_map": auto_map})
    return sorted(f"{name}.py" for name in modules)


def _with_siblings(names: set[str]) -> set[str]:
    """The modules, and what they import from their own folder, and so on."""
    found: set[str] = set()
    while names:
        found |= names
        names = {sibling for name in names for sibling in _sibling_imports(PACKAGE / f"{name}.py")} - found
    return found


def _sibling_imports(module: Path) -> set[str]:
    siblings = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            if node.level == 1 and node.module and (PACKAGE / f"{node.module}.py").is_file():
                siblings.add(node.module)
                continue
            names = ["hfcap"] if node.level else [node.module]
        if any(name.split(".")[0] == "hfcap" for name in names):
            raise RuntimeError(
                f"{module.name}, line {node.lineno}: code on the Hub may import siblings only (from .name import …)"
            )
    return siblings
