"""Images to predictions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from backend.domain import Prediction
from backend.guidance.classifier import Classifier, ClassifierOutput
from backend.guidance.data import to_tensor
from backend.guidance.losses import contrast_map, energy_share, evidence
from backend.guidance.targets import affected_disc


def made_to_serve(classifier: Classifier) -> Classifier:
    """The same classifier with its channels last in memory: convolutions are faster so, on CPUs too."""
    served: Classifier = classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch types it for tensors alone
    return served


@torch.inference_mode()
def predict(classifier: Classifier, images: Sequence[Image.Image], batch_size: int = 32) -> list[Prediction]:
    """Predict images: class, attention, peak, features; one forward pass each.

    Args:
        classifier: in evaluation mode.
        images: RGB, upright.
        batch_size: how many at once.

    Returns:
        One prediction for each image, in order.
    """
    device = next(classifier.parameters()).device
    predictions: list[Prediction] = []
    for start in range(0, len(images), batch_size):
        batch = torch.stack(
            [to_tensor(image, classifier.spec.image_size) for image in images[start : start + batch_size]]
        )
        predictions += read(classifier, classifier(batch.to(device)))
    return predictions


def read(classifier: Classifier, output: ClassifierOutput) -> list[Prediction]:
    """Predictions from what a forward pass of a classifier gave."""
    probabilities = output.logits.softmax(1)
    contrast = contrast_map(output.maps, probabilities.argmax(1)).cpu()
    rows = zip(probabilities.cpu(), contrast, output.features.cpu(), strict=True)
    return [_prediction(classifier.spec.classes, *row) for row in rows]


def _prediction(
    classes: Sequence[str], probabilities: torch.Tensor, signed: torch.Tensor, features: torch.Tensor
) -> Prediction:
    best = int(probabilities.argmax())
    attention = evidence(signed[None])[0]
    attention = attention / attention.max().clamp_min(1e-12)
    height, width = attention.shape
    row, column = divmod(int(signed.argmax()), width)
    x, y = (column + 0.5) / width, (row + 0.5) / height
    disc = torch.from_numpy(affected_disc((height, width), x, y)).float()
    return Prediction(
        label=classes[best],
        confidence=float(probabilities[best]),
        probabilities={name: float(value) for name, value in zip(classes, probabilities, strict=True)},
        peak=(x, y),
        attention=attention.numpy().astype(np.float32),
        attention_share=float(energy_share(signed[None], disc[None])[0]),
        features=features.numpy().astype(np.float32),
    )
