"""Captioning from an ONNX export, without torch and transformers.

    from hfcap.ondevice import Captioner

    Captioner("FOLDER").caption(["photo.jpg"])

`pip install "hfcap[ondevice]"` brings what it needs: onnxruntime, tokenizers, NumPy and Pillow. They are imported with
`Captioner`: captioners in torch look here whether a folder is an ONNX export, without onnxruntime.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hfcap.ondevice.captioner import Captioner

__all__ = ["Captioner"]


def __getattr__(name: str) -> Any:
    if name == "Captioner":
        from hfcap.ondevice.captioner import Captioner

        return Captioner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
