"""The classifier: a backbone, global average pooling, one linear layer; and with it the class activation maps.

For features A (C × h × w) → mean over the cells → linear layer W, the logit of class k is the mean of the map
M_k = Σ_c W_kc A_c plus the bias. So one forward pass gives class and map, and the map carries a gradient.
ReLU(M_k)/(h·w) equals Grad-CAM on the tensor that enters the pooling (Selvaraju et al. 2017, §3).
"""

from __future__ import annotations

import json
import logging
import math
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from backend.domain import LookhereError

log = logging.getLogger(__name__)

SMALL = "small"
"""The built-in network for small images; it needs no weights."""

WEIGHTS_FILE = "weights.safetensors"
SPEC_FILE = "classifier.json"

_SMALL_IMAGE_SIZE = 64
_IMAGE_SIZE = 224
_DOWNLOAD_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class ClassifierSpec:
    """What a classifier is, without its weights.

    Attributes:
        backbone: torchvision's name of it, or ``small``.
        classes: in the order of the logits.
        image_size: side in pixels to which images are resized.
    """

    backbone: str
    classes: tuple[str, ...]
    image_size: int

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ClassifierSpec:
        """From what ``to_json`` gave."""
        return cls(str(values["backbone"]), tuple(values["classes"]), int(values["image_size"]))


class ClassifierOutput(NamedTuple):
    """What one forward pass gives.

    Attributes:
        logits: (N, K); equal to the mean of ``maps`` over the cells plus the head's bias.
        maps: (N, K, h, w) signed class activation maps.
        features: (N, C) pooled features.
    """

    logits: Tensor
    maps: Tensor
    features: Tensor


class Classifier(nn.Module):
    """A backbone with a pooled linear head.

    Args:
        spec: what it is.
        trunk: the part that is never trained; images (N, 3, S, S) to features.
        last_stage: the part that is trained; ends with the tensor that enters the pooling, (N, C, h, w).
        head: the linear layer.
    """

    def __init__(self, spec: ClassifierSpec, trunk: nn.Module, last_stage: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.spec = spec
        self.trunk = trunk
        self.last_stage = last_stage
        self.head = head

    @property
    def pretrained(self) -> bool:
        """Whether the last stage starts from weights that were trained elsewhere, its batch norms included."""
        return self.spec.backbone != SMALL

    def forward(self, images: Tensor) -> ClassifierOutput:
        """Classify images.

        Args:
            images: (N, 3, S, S) float32, normalised by ``data.to_tensor``.
        """
        return self.from_trunk(self.trunk(images))

    def from_trunk(self, features: Tensor) -> ClassifierOutput:
        """Classify what the trunk gave for images."""
        cells = self.last_stage(features)
        maps = torch.einsum("kc,nchw->nkhw", self.head.weight, cells)
        return ClassifierOutput(maps.mean((2, 3)) + self.head.bias, maps, cells.mean((2, 3)))


def device_of(name: str | None) -> torch.device:
    """The device that a setting names; ``cuda`` where there is one, if it names none."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def create(
    backbone: str,
    classes: tuple[str, ...],
    image_size: int | None = None,
    weights: Path | None = None,
    seed: int = 0,
) -> Classifier:
    """Make a classifier to start from.

    Args:
        backbone: a torchvision model with a pooled linear head, or ``small``.
        classes: names of the classes; at least two.
        image_size: side in pixels of its images; None for 224, or 64 of ``small``.
        weights: a state dict of torchvision's layout, as ``.pth`` or ``.safetensors``, or a folder that ``save`` wrote.
            None downloads torchvision's ImageNet weights; where that fails, the built-in network takes their place.
        seed: of the new layers' weights.

    Raises:
        LookhereError: if the backbone has no pooled linear head, or the weights do not fit it.
    """
    if len(classes) < 2:
        raise LookhereError(f"Expected at least two classes, got {classes!r}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if weights is not None and weights.is_dir():
            return _from_folder(weights, classes)
        if backbone == SMALL and weights is not None:
            raise LookhereError(
                f"Expected no weights file for the built-in network, got {weights.name!r}; set LOOKHERE_BACKBONE to "
                "the torchvision model that it is of."
            )
        if backbone == SMALL:
            return _small(ClassifierSpec(SMALL, classes, image_size or _SMALL_IMAGE_SIZE))
        spec = ClassifierSpec(backbone, classes, image_size or _IMAGE_SIZE)
        splitter = _splitter(backbone)
        if weights is not None:
            return _from_state_dict(spec, splitter, _read_state_dict(weights), weights)
        try:
            with _time_limit():
                model = torchvision.models.get_model(backbone, weights="DEFAULT")
        except (URLError, OSError, RuntimeError) as error:
            log.warning(
                "The pretrained weights of %s cannot be downloaded (%s); the built-in network for small images takes "
                "their place. To use %s, put its weights into a file and name it in LOOKHERE_WEIGHTS.",
                backbone,
                error,
                backbone,
            )
            return _small(ClassifierSpec(SMALL, classes, _SMALL_IMAGE_SIZE))
        trunk, last_stage, head = splitter(model)
        return Classifier(spec, trunk, last_stage, _new_head(head.in_features, len(classes))).eval()


def save(classifier: Classifier, folder: Path) -> None:
    """Write a classifier into a folder: weights as safetensors, its spec as JSON."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in classifier.state_dict().items()}
    save_file(state, folder / WEIGHTS_FILE)
    (folder / SPEC_FILE).write_text(json.dumps(classifier.spec.to_json(), indent=1))


def load(folder: Path, device: torch.device | str = "cpu") -> Classifier:
    """Read a classifier that ``save`` wrote, in evaluation mode.

    Raises:
        LookhereError: if the folder holds none, or a damaged one.
    """
    try:
        spec = ClassifierSpec.from_json(json.loads((folder / SPEC_FILE).read_text()))
        classifier = _empty(spec)
        classifier.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise LookhereError(f"Expected a folder with a saved classifier, got {folder.name!r}: {error}.") from error
    return classifier.to(device).eval()


_Parts = tuple[nn.Module, nn.Module, nn.Linear]


def _resnet(model: Any) -> _Parts:
    trunk = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool, model.layer1, model.layer2, model.layer3)
    return trunk, model.layer4, model.fc


def _densenet(model: Any) -> _Parts:
    stages = list(model.features)
    # The network ends with a batch norm, and its forward pass with a ReLU before the pooling.
    return nn.Sequential(*stages[:-2]), nn.Sequential(*stages[-2:], nn.ReLU()), model.classifier


def _inverted_residuals(model: Any) -> _Parts:
    stages = list(model.features)
    return nn.Sequential(*stages[:-3]), nn.Sequential(*stages[-3:]), model.classifier[-1]


def _regnet(model: Any) -> _Parts:
    stages = list(model.trunk_output)
    return nn.Sequential(model.stem, *stages[:-1]), stages[-1], model.fc


_FAMILIES: dict[str, Callable[[Any], _Parts]] = {
    "resnet": _resnet,
    "resnext": _resnet,
    "wide_resnet": _resnet,
    "densenet": _densenet,
    "efficientnet": _inverted_residuals,
    "mobilenet_v2": _inverted_residuals,
    "regnet": _regnet,
}


def _splitter(backbone: str) -> Callable[[Any], _Parts]:
    for family, splitter in _FAMILIES.items():
        if backbone.startswith(family) and backbone in torchvision.models.list_models(torchvision.models):
            return splitter
    raise LookhereError(
        f"Expected a backbone whose features are pooled into one linear layer, got {backbone!r}; use `{SMALL}`, or one "
        f"of torchvision's {', '.join(_FAMILIES)} models. With other heads the attention map has no closed form."
    )


class OrientedGradients(nn.Module):
    """What a pretrained trunk's first layers see, by design: edges in eight directions at two scales, and colour.

    Half-wave rectified derivatives of Gaussians, normalised by the local contrast as in histograms of oriented
    gradients (Dalal and Triggs 2005). It is not trained, so a few hundred images are enough for the layers above it.
    Images (N, 3, S, S), S a multiple of 8, give (N, 19, S/4, S/4).
    """

    channels = 19
    _DIRECTIONS = 8
    _REACH = 3

    def __init__(self) -> None:
        super().__init__()
        along = torch.arange(-self._REACH, self._REACH + 1, dtype=torch.float32)
        down, right = torch.meshgrid(along, along, indexing="ij")
        bell = torch.exp(-(right**2 + down**2) / 2)
        angles = [2 * math.pi * turn / self._DIRECTIONS for turn in range(self._DIRECTIONS)]
        filters = torch.stack([(right * math.cos(angle) + down * math.sin(angle)) * bell for angle in angles])
        self.filters: Tensor
        self.register_buffer("filters", (filters / filters.abs().sum((1, 2), keepdim=True))[:, None])

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        grey = images.mean(1, keepdim=True)
        return torch.cat([self._edges(grey, 4), self._edges(F.avg_pool2d(grey, 2), 2), F.avg_pool2d(images, 4)], 1)

    def _edges(self, grey: Tensor, stride: int) -> Tensor:
        framed = F.pad(grey, (self._REACH,) * 4, mode="replicate")
        edges = F.avg_pool2d(F.relu(F.conv2d(framed, self.filters)), stride)
        contrast = F.avg_pool2d(edges.square().sum(1, keepdim=True), 5, 1, 2, count_include_pad=False).sqrt()
        return 2 * edges / (contrast + 0.1)


def _small(spec: ClassifierSpec) -> Classifier:
    def stage(inputs: int, outputs: int, stride: int) -> Iterator[nn.Module]:
        yield nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        yield nn.BatchNorm2d(outputs)
        yield nn.ReLU()

    channels = (OrientedGradients.channels, 64, 96, 96)
    strides = (1, 2, 1)
    layers = [
        layer
        for inputs, outputs, stride in zip(channels, channels[1:], strides, strict=False)
        for layer in stage(inputs, outputs, stride)
    ]
    head = _new_head(channels[-1], len(spec.classes))
    return Classifier(spec, OrientedGradients(), nn.Sequential(*layers), head).eval()


def _empty(spec: ClassifierSpec) -> Classifier:
    if spec.backbone == SMALL:
        return _small(spec)
    trunk, last_stage, head = _splitter(spec.backbone)(torchvision.models.get_model(spec.backbone, weights=None))
    return Classifier(spec, trunk, last_stage, _new_head(head.in_features, len(spec.classes)))


def _new_head(features: int, classes: int) -> nn.Linear:
    head = nn.Linear(features, classes)
    # All classes start alike: the first map is flat, not noise, and shows that nothing was learnt yet.
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def _from_folder(folder: Path, classes: tuple[str, ...]) -> Classifier:
    classifier = load(folder)
    if classifier.spec.classes == classes:
        return classifier
    spec = ClassifierSpec(classifier.spec.backbone, classes, classifier.spec.image_size)
    head = _new_head(classifier.head.in_features, len(classes))
    return Classifier(spec, classifier.trunk, classifier.last_stage, head).eval()


def _from_state_dict(
    spec: ClassifierSpec, splitter: Callable[[Any], _Parts], state: dict[str, Tensor], path: Path
) -> Classifier:
    bare = torchvision.models.get_model(spec.backbone, weights=None)
    head_name = next(name for name, module in bare.named_modules() if module is splitter(bare)[2])
    outputs = state[f"{head_name}.weight"].shape[0] if f"{head_name}.weight" in state else None
    if outputs is None:
        raise LookhereError(
            f"Expected weights of torchvision's {spec.backbone}, with a layer {head_name!r}, got {path.name!r} without."
        )
    model = torchvision.models.get_model(spec.backbone, weights=None, num_classes=outputs)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise LookhereError(f"Expected weights of torchvision's {spec.backbone} in {path.name!r}: {error}.") from error
    trunk, last_stage, head = splitter(model)
    if outputs != len(spec.classes):
        log.warning(
            "The weights in %s are for %s classes, the label config has %s; the last layer starts anew.",
            path.name,
            outputs,
            len(spec.classes),
        )
        head = _new_head(head.in_features, len(spec.classes))
    return Classifier(spec, trunk, last_stage, head).eval()


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    try:
        # Never unpickled: a weights file may come from anywhere.
        safe = path.suffix == ".safetensors"
        state: Any = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises anything on bytes that are no weights
        raise LookhereError(
            f"Expected a file of weights (a state dict, or safetensors), got {path.name!r}: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise LookhereError(f"Expected a state dict, names to tensors, in {path.name!r}, got {type(state).__name__}.")
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


@contextmanager
def _time_limit() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
