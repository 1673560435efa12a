"""BitImageProcessor: transformers' image processor for BiT, with BiT's own settings."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, Unpack

import torch
from PIL import Image

from bit_backbone._files import atomic_path, read_json
from bit_backbone.preprocessing import images as inputs
from bit_backbone.preprocessing import pixels, presets, saved, settings
from bit_backbone.preprocessing.batch import BatchFeature, collate
from bit_backbone.preprocessing.settings import Settings, SizeLike

# What transformers writes beside the settings, and what of it changes no pixel here.
_BOOKKEEPING = frozenset(
    ("image_processor_type", "feature_extractor_type", "processor_class", "default_to_square",
     "data_format", "input_data_format", "return_tensors", "device", "disable_grouping", "use_fast")
)  # fmt: skip


class BitImageProcessor:
    """Makes images into the ``pixel_values`` of a BiT model.

    The steps, each of which can be switched off: convert to RGB, resize, centre crop, rescale,
    normalise. On 8-bit images they equal transformers' ``BitImageProcessorPil`` to the bit, except
    that the crop's offset is torchvision's (see ``pixels.center_crop``). The defaults are those of
    transformers apart from mean and standard deviation: theirs are CLIP's, ours are BiT's 0.5.
    ``from_preset`` gives the settings that a checkpoint was evaluated with.

    Args:
        do_resize: Whether to resize.
        size: {"shortest_edge": n} keeps the aspect ratio, {"height": h, "width": w} does not;
            n stands for {"shortest_edge": n} and (h, w) for height and width.
        resample: One of Pillow's filters: ``PIL.Image.Resampling``, its number, its name, or
            torchvision's ``InterpolationMode``.
        do_center_crop: Whether to crop. Smaller images are padded with black.
        crop_size: {"height": h, "width": w}, (h, w), or n for a square.
        do_rescale: Whether to multiply by ``rescale_factor``. It also says what floating-point
            images are: in [0, 255] if they are to be rescaled, in [0, 1] if they are not.
        rescale_factor: 1/255 brings 8-bit pixels to [0, 1].
        do_normalize: Whether to subtract ``image_mean`` and divide by ``image_std``.
        image_mean: One number, or one per channel, on the scale after rescaling.
        image_std: Likewise.
        do_convert_rgb: Whether to make RGB of grey, palette, CMYK, ... images, with transparency
            composited on white.

    Raises:
        ValueError: For a setting out of its range; the message says which.
    """

    model_input_names = ("pixel_values",)

    def __init__(
        self,
        do_resize: bool = True,
        size: SizeLike = 224,
        resample: int | str = Image.Resampling.BICUBIC,
        do_center_crop: bool = True,
        crop_size: SizeLike = 224,
        do_rescale: bool = True,
        rescale_factor: float = 1 / 255,
        do_normalize: bool = True,
        image_mean: float | Sequence[float] = (0.5, 0.5, 0.5),
        image_std: float | Sequence[float] = (0.5, 0.5, 0.5),
        do_convert_rgb: bool = True,
    ) -> None:
        self.do_resize = settings.parse_flag("do_resize", do_resize)
        self.size = settings.parse_size(size)
        self.resample = settings.parse_resample(resample)
        self.do_center_crop = settings.parse_flag("do_center_crop", do_center_crop)
        self.crop_size = settings.parse_crop_size(crop_size)
        self.do_rescale = settings.parse_flag("do_rescale", do_rescale)
        self.rescale_factor = settings.parse_factor(rescale_factor)
        self.do_normalize = settings.parse_flag("do_normalize", do_normalize)
        self.image_mean = settings.parse_statistics("image_mean", image_mean)
        self.image_std = settings.parse_statistics("image_std", image_std)
        self.do_convert_rgb = settings.parse_flag("do_convert_rgb", do_convert_rgb)

    def __call__(self, images: inputs.ImageInput, **kwargs: Any) -> BatchFeature:
        """The same as ``preprocess``."""
        return self.preprocess(images, **kwargs)

    def preprocess(
        self,
        images: inputs.ImageInput,
        *,
        return_tensors: str | None = None,
        data_format: str | None = "channels_first",
        input_data_format: str | None = None,
        **overrides: Unpack[Settings],
    ) -> BatchFeature:
        """Makes one image or a batch into a batch of ``pixel_values``.

        Args:
            images: PIL images, numpy arrays or torch tensors (of any device; the work is done on
                the CPU), or paths of image files; one, a (nested) sequence, or a 4-D array.
                Arrays are uint8 or floating point, [H, W], [H, W, C] or [C, H, W].
            return_tensors: "pt" for a tensor, "np" for an array, None for a list of arrays, which
                need not have one shape.
            data_format: "channels_first" or "channels_last", of the result.
            input_data_format: The same of the arrays given; None finds the axis of length 1, 3
                or 4.
            **overrides: Settings for this call.

        Returns:
            {"pixel_values": [N, C, H, W] or [N, H, W, C]}; float32, or uint8 where 8-bit images
            are neither rescaled nor normalised.

        Raises:
            ValueError: For an image that cannot be read without guessing (16 bits, floats whose
                range does not fit ``do_rescale``, an unclear channel axis), for images of several
                sizes with ``return_tensors``, and for settings out of their range.
        """
        _check_choice("return_tensors", return_tensors, ("pt", "np", None))
        _check_choice("data_format", data_format, (*inputs.CHANNEL_FORMATS, None))
        _check_choice("input_data_format", input_data_format, (*inputs.CHANNEL_FORMATS, None))
        processor = self.replace(**overrides)
        processed = [
            processor._process(image, input_data_format) for image in inputs.flatten(images)
        ]
        if data_format == "channels_last":
            processed = [image.permute(1, 2, 0).contiguous() for image in processed]
        return BatchFeature(pixel_values=collate(processed, return_tensors))

    def _process(self, image: inputs.ImageLike, input_data_format: str | None) -> torch.Tensor:
        """Runs the steps on one image; returns [C, H, W]."""
        white = 255.0 if self.do_rescale else 1.0
        working = inputs.read(image, self.do_convert_rgb, input_data_format, white)
        if self.do_resize:
            working = pixels.resize(working, self.size, self.resample, white)
        if self.do_center_crop:
            working = pixels.center_crop(working, self.crop_size)
        tensor = pixels.to_tensor(working)
        if self.do_rescale:
            tensor = pixels.rescale(tensor, self.rescale_factor)
        if self.do_normalize:
            tensor = pixels.normalize(tensor, self.image_mean, self.image_std)
        return tensor

    def replace(self, **overrides: Unpack[Settings]) -> Self:
        """Returns a processor with some settings changed; None leaves one as it is."""
        given = {name: value for name, value in overrides.items() if value is not None}
        return type(self)(**{name: getattr(self, name) for name in settings.NAMES} | given)

    @classmethod
    def from_preset(cls, name: str, **overrides: Unpack[Settings]) -> Self:
        """Returns the preprocessing of a checkpoint.

        Args:
            name: A preset (a key of ``PRESETS``) or the name of a checkpoint in the catalog.
            **overrides: Settings to change.

        Raises:
            ValueError: If the name is neither.
        """
        return cls(**presets.find(name)).replace(**overrides)

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as transformers writes them to preprocessor_config.json."""
        values = {name: getattr(self, name) for name in settings.NAMES}
        values["resample"] = int(self.resample)
        for name in ("image_mean", "image_std"):
            if isinstance(values[name], tuple):
                values[name] = list(values[name])
        return {"image_processor_type": "BitImageProcessor", **values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **overrides: Unpack[Settings]) -> Self:
        """Reads the settings from the content of a preprocessor_config.json.

        Raises:
            ValueError: For a key that this processor does not know and that is not null or false:
                to ignore it might change the pixels.
        """
        unknown = {
            key: value
            for key, value in values.items()
            if key not in settings.NAMES and key not in _BOOKKEEPING and value
        }
        if unknown:
            raise ValueError(
                f"the settings of a BiT image processor are {', '.join(settings.NAMES)}; "
                f"got also {unknown}: remove them if the result does not depend on them"
            )
        known: Any = {name: values[name] for name in settings.NAMES if name in values}
        return cls().replace(**known).replace(**overrides)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Writes ``preprocessor_config.json`` into a folder, made if missing; returns its path."""
        target = Path(folder) / saved.FILE_NAME
        with atomic_path(target) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n")
        return target

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **overrides: Unpack[Settings],
    ) -> Self:
        """Reads a ``preprocessor_config.json`` that this class or transformers wrote.

        The official checkpoints and timm's have none: of these it is the preset.

        Args:
            name_or_path: A folder, the file itself, the name of a published checkpoint, or a
                repository of the Hugging Face Hub, from which the file is downloaded once.
            revision: Branch, tag or commit of the repository.
            cache_dir: Where downloads are kept.
            token: Access token for a private repository.
            local_files_only: Use downloads of earlier only.
            **overrides: Settings to change.

        Raises:
            ValueError: The file is not there, is not JSON, or holds unusable settings.
        """
        if saved.has_preset_only(name_or_path):
            return cls.from_preset(str(name_or_path), **overrides)
        path = saved.find(
            name_or_path,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
        )
        return cls.from_dict(read_json(path), **overrides)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={getattr(self, name)!r}" for name in settings.NAMES)
        return f"{type(self).__name__}({arguments})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BitImageProcessor) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # settings may be changed in place


def _check_choice(name: str, value: str | None, choices: tuple[str | None, ...]) -> None:
    # transformers' enumerations are strings that are equal to, but do not hash as, their values
    if not any(value == choice for choice in choices):
        raise ValueError(f"{name} is one of {', '.join(map(repr, choices))}, got {value!r}")
