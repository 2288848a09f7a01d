"""Captioning from an ONNX export, without torch and transformers.

    from hfcap.ondevice import Captioner

    Captioner("FOLDER").caption(["photo.jpg"])

`pip install "hfcap[ondevice]"` brings what it needs: onnxruntime, tokenizers, NumPy and Pillow.
"""

from hfcap.ondevice.captioner import Captioner

__all__ = ["Captioner"]
