"""Optional libraries: which extra of hfcap brings one that is missing."""

# Libraries by the extra that brings them.
EXTRAS = {
    "train": (
        *("torch", "transformers", "accelerate", "datasets", "peft", "bitsandbytes", "evaluate", "safetensors"),
        "huggingface_hub",
    ),
    "ondevice": ("onnxruntime", "tokenizers"),
}


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """Return the one line for a library that is not installed, with the command that installs it; None for others."""
    library = (error.name or "").split(".")[0]
    extra = next((extra for extra, libraries in EXTRAS.items() if library in libraries), None)
    return None if extra is None else missing_line(library, extra)


def missing_line(library: str, extra: str) -> str:
    """Return the line for a library of an extra."""
    return f'needs {library}, which is not installed; pip install "hfcap[{extra}]"'
