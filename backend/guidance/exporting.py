"""A classifier as a file that needs nothing of this package: TorchScript or ONNX."""

from __future__ import annotations

import copy
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backend.domain import LookhereError
from backend.guidance.classifier import Classifier
from backend.guidance.data import MEAN, STD

_ONNX_OPSET = 17


class Format(StrEnum):
    """What other programs load."""

    TORCHSCRIPT = "torchscript"
    """``torch.jit.load``, in Python or C++."""
    ONNX = "onnx"
    """ONNX Runtime and all that read ONNX."""

    @property
    def file(self) -> str:
        """Name of the file."""
        return "classifier.pt" if self is Format.TORCHSCRIPT else "classifier.onnx"


class _Whole(nn.Module):
    """Pixels to probabilities: with the normalisation before and the softmax behind."""

    mean: Tensor
    std: Tensor

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        output = self.classifier((images - self.mean) / self.std)
        return output.logits.softmax(1), output.maps


def export(classifier: Classifier, form: Format, folder: Path) -> dict[str, Any]:
    """Write a classifier for use elsewhere.

    The file takes ``images``, (N, 3, S, S) float32 in [0, 1], RGB, upright, resized to S × S, antialiased. It gives
    ``probabilities``, (N, K), and ``maps``, (N, K, h, w): the signed class activation map of each class.

    Args:
        classifier: what is written.
        form: how.
        folder: of the file; it exists.

    Returns:
        What a user of the file must know: its name, inputs, outputs and classes; JSON values.

    Raises:
        LookhereError: if a package is missing that the format needs.
    """
    whole = _Whole(copy.deepcopy(classifier).cpu()).eval()
    size = classifier.spec.image_size
    # Two, so that no step takes the number of images for a constant.
    images = torch.zeros(2, 3, size, size)
    path = folder / form.file
    with torch.inference_mode(), warnings.catch_warnings():
        # Both ways are called old by PyTorch; the newer ones need far more packages to load the file, or write more.
        warnings.simplefilter("ignore")
        if form is Format.TORCHSCRIPT:
            torch.jit.save(torch.jit.trace(whole, images), str(path))  # type: ignore[no-untyped-call]
        else:
            _to_onnx(whole, images, path)
    return {
        "file": form.file,
        "format": form.value,
        "classes": list(classifier.spec.classes),
        "input": {
            "name": "images",
            "shape": ["N", 3, size, size],
            "type": "float32 in [0, 1], RGB, upright, resized with antialiasing; the normalisation is in the file",
        },
        "outputs": {
            "probabilities": "(N, K) in the order of the classes",
            "maps": "(N, K, h, w) signed class activation maps; their mean and a bias are the logit",
        },
    }


def _to_onnx(whole: nn.Module, images: Tensor, path: Path) -> None:
    try:
        import onnx  # noqa: F401 - PyTorch's exporter wants it, and says so less clearly
    except ImportError as error:
        raise LookhereError(
            "Expected the package `onnx`, got none; install it with `pip install lookhere[export]`."
        ) from error
    names = ["images", "probabilities", "maps"]
    torch.onnx.export(
        whole,
        (images,),
        str(path),
        input_names=names[:1],
        output_names=names[1:],
        dynamic_axes={name: {0: "N"} for name in names},
        opset_version=_ONNX_OPSET,
        dynamo=False,
    )
