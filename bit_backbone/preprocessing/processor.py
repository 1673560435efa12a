"""BitImageProcessor: transformers' image processor for BiT, with BiT's own settings."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, Unpack

import torch
from PIL import Image

from bit_backbone.preprocessing import images as inputs
from bit_backbone.preprocessing import pixels, presets, saved, settings
from bit_backbone.preprocessing.batch import BatchFeature, collate
from bit_backbone.preprocessing.deep import AUTO, BitDepth, check_depth
from bit_backbone.preprocessing.settings import DeviceLike, Settings, SizeLike
from bit_backbone.utils.files import atomic_path

_SHORT_SIDE = MappingProxyType({"shortest_edge": 224})


class BitImageProcessor:
    """Prepares images as the ``pixel_values`` of a BiT model.

    The steps are: convert to RGB, resize, centre crop, rescale and normalise. Each can be switched
    off. Padding is another step, which has to be switched on. On 8-bit images the results equal
    transformers' ``BitImageProcessorPil`` to the bit. The defaults are those of transformers apart
    from mean and standard deviation: theirs are CLIP's, ours are BiT's 0.5. ``from_preset`` gives
    the settings that a checkpoint was evaluated with.

    Args:
        do_resize: Whether to resize.
        size: {"shortest_edge": n} keeps the aspect ratio, {"height": h, "width": w} does not;
            n stands for {"shortest_edge": n} and (h, w) for height and width.
            {"shortest_edge": n, "longest_edge": m} and {"max_height": h, "max_width": w} keep
            the ratio within bounds, see ``pixels.target_size``.
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
        do_pad: Whether to append zeros below and to the right, after all other steps: after
            normalisation zero is the mean colour.
        pad_size: {"height": h, "width": w}, (h, w), or n for a square, which no image may exceed;
            None for the largest height and width of the batch.
        default_to_square: Whether an n of ``size`` stands for {"height": n, "width": n}.
        return_tensors: "pt" for a tensor, "np" for an array; None for a list, whose images need not
            have one shape: of tensors if there is a ``device``, else of arrays.
        data_format: "channels_first" or "channels_last", of the result.
        input_data_format: The same for input arrays; None finds the axis of length 1, 3 or 4.
        device: Device of the resulting tensors. None: that of the images, if all are tensors on one
            device, else the CPU. All steps run on the CPU in any case.
        disable_grouping: Accepted for compatibility with transformers, which processes images of
            one shape together. Here each image is processed by itself, with the same result.
        image_seq_length: Accepted for compatibility: a number of text tokens, which BiT does not
            have.
        crop_rounding: Rounding of the crop's offset if the margin is odd: "down" as in
            transformers, "even" as in timm and torchvision, whose presets have it; see
            ``pixels.center_crop``. transformers does not read it.
        bit_depth: Bits in use in files and PIL images with more than 8 bits per channel, or "auto"
            for all bits of their type. Such images are scaled to 8 bits.

    Raises:
        ValueError: A setting is out of its range; the message names it.
    """

    model_input_names = ("pixel_values",)

    def __init__(
        self,
        do_resize: bool = True,
        size: SizeLike = _SHORT_SIDE,
        resample: int | str = Image.Resampling.BICUBIC,
        do_center_crop: bool = True,
        crop_size: SizeLike = 224,
        do_rescale: bool = True,
        rescale_factor: float = 1 / 255,
        do_normalize: bool = True,
        image_mean: float | Sequence[float] = (0.5, 0.5, 0.5),
        image_std: float | Sequence[float] = (0.5, 0.5, 0.5),
        do_convert_rgb: bool = True,
        *,
        do_pad: bool = False,
        pad_size: SizeLike | None = None,
        default_to_square: bool = False,
        return_tensors: str | None = None,
        data_format: str = "channels_first",
        input_data_format: str | None = None,
        device: DeviceLike | None = None,
        disable_grouping: bool | None = None,
        image_seq_length: int | None = None,
        crop_rounding: str = "down",
        bit_depth: BitDepth = AUTO,
    ) -> None:
        self.do_resize = settings.parse_flag("do_resize", do_resize)
        self.default_to_square = settings.parse_flag("default_to_square", default_to_square)
        self.size = settings.parse_size(size, self.default_to_square)
        self.resample = settings.parse_resample(resample)
        self.do_center_crop = settings.parse_flag("do_center_crop", do_center_crop)
        self.crop_size = settings.parse_square("crop_size", crop_size)
        self.do_rescale = settings.parse_flag("do_rescale", do_rescale)
        self.rescale_factor = settings.parse_factor(rescale_factor)
        self.do_normalize = settings.parse_flag("do_normalize", do_normalize)
        self.image_mean = settings.parse_statistics("image_mean", image_mean)
        self.image_std = settings.parse_statistics("image_std", image_std)
        self.do_convert_rgb = settings.parse_flag("do_convert_rgb", do_convert_rgb)
        self.do_pad = settings.parse_flag("do_pad", do_pad)
        self.pad_size = None if pad_size is None else settings.parse_square("pad_size", pad_size)
        self._set_call_options(return_tensors, data_format, input_data_format, device)
        if disable_grouping is not None:
            settings.parse_flag("disable_grouping", disable_grouping)
        self.disable_grouping = disable_grouping
        self.image_seq_length = settings.parse_count("image_seq_length", image_seq_length)
        self.crop_rounding = settings.parse_choice(
            "crop_rounding", crop_rounding, settings.CROP_ROUNDINGS
        )
        self.bit_depth = check_depth(bit_depth)

    def _set_call_options(
        self,
        return_tensors: str | None,
        data_format: str,
        input_data_format: str | None,
        device: DeviceLike | None,
    ) -> None:
        formats = inputs.CHANNEL_FORMATS
        self.return_tensors = settings.parse_choice(
            "return_tensors", return_tensors, ("pt", "np", None)
        )
        self.data_format = settings.parse_choice("data_format", data_format, formats)
        self.input_data_format = settings.parse_choice(
            "input_data_format", input_data_format, (*formats, None)
        )
        self.device = settings.parse_device(device)

    def __call__(self, images: inputs.ImageInput, **overrides: Unpack[Settings]) -> BatchFeature:
        """The same as ``preprocess``."""
        return self.preprocess(images, **overrides)

    def preprocess(self, images: inputs.ImageInput, **overrides: Unpack[Settings]) -> BatchFeature:
        """Prepares one image or several as a batch of ``pixel_values``.

        Args:
            images: PIL images, numpy arrays or torch tensors, or paths of image files; one, a
                (nested) sequence, or a 4-D array. Arrays are uint8, uint16 or floating point,
                [H, W], [H, W, C] or [C, H, W]; other integers, with a ``bit_depth``.
            **overrides: Settings for this call, such as ``return_tensors``; None for the
                processor's own.

        Returns:
            {"pixel_values": [N, C, H, W] or [N, H, W, C]}; float32, or uint8 where 8-bit images
            are neither rescaled nor normalised.

        Raises:
            ValueError: An image cannot be read without guessing (32 bits, floats whose range does
                not fit ``do_rescale``, an unclear channel axis) or is larger than ``pad_size``;
                images have several sizes, and ``return_tensors`` is given; or a setting is out of
                its range.
        """
        return self.replace(**overrides)._process_all(inputs.flatten(images))

    def _process_all(self, images: list[inputs.ImageLike]) -> BatchFeature:
        processed = [self._process(image) for image in images]
        if self.do_pad:
            processed = pixels.pad(processed, self.pad_size)
        if self.data_format == "channels_last":
            processed = [image.permute(1, 2, 0).contiguous() for image in processed]
        device = self.device
        if device is None and self.return_tensors == "pt":
            device = inputs.common_device(images)
        return BatchFeature(pixel_values=collate(processed, self.return_tensors, device))

    def _process(self, image: inputs.ImageLike) -> torch.Tensor:
        """Runs the steps on one image; returns [C, H, W]."""
        white = 255.0 if self.do_rescale else 1.0
        options = self.do_convert_rgb, self.input_data_format, white, self.bit_depth
        working = inputs.read(image, *options)
        if self.do_resize:
            working = pixels.resize(working, self.size, self.resample, white)
        if self.do_center_crop:
            working = pixels.center_crop(working, self.crop_size, str(self.crop_rounding))
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
            ValueError: The name is neither.
        """
        return cls(**presets.find(name)).replace(**overrides)

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as transformers writes them to preprocessor_config.json."""
        values = self._stated()
        values["resample"] = int(self.resample)
        for name in ("image_mean", "image_std"):
            if isinstance(values[name], tuple):
                values[name] = list(values[name])
        if self.device is not None:
            values["device"] = str(self.device)
        return {"image_processor_type": "BitImageProcessor", **values}

    def _stated(self) -> dict[str, Any]:
        """The settings, without those that have a default and are at it."""
        values = {name: getattr(self, name) for name in settings.NAMES}
        defaults = settings.DEFAULTS
        return {k: v for k, v in values.items() if k not in defaults or v != defaults[k]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **overrides: Unpack[Settings]) -> Self:
        """Reads the settings from the content of a preprocessor_config.json.

        Raises:
            ValueError: There is an unknown key whose value is not null or false; ignoring it could
                change the pixels.
        """
        saved.reject_unknown(values)
        known: Any = {name: values[name] for name in settings.NAMES if name in values}
        return cls().replace(**known).replace(**overrides)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Writes ``preprocessor_config.json`` into a folder; returns its path."""
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

        The official checkpoints and timm's have no such file; for these the preset is used. For a
        folder or repository that timm wrote, its config.json is used.

        Args:
            name_or_path: A folder, the file itself, the name of a published checkpoint, or a
                repository of the Hugging Face Hub, from which the file is downloaded once.
            revision: Branch, tag or commit of the repository.
            cache_dir: Where downloads are kept.
            token: Access token for a private repository.
            local_files_only: Whether to use only files that were downloaded before.
            **overrides: Settings to change.

        Raises:
            ValueError: The file is missing, is not JSON, or has unusable settings.
        """
        if saved.has_preset_only(name_or_path):
            return cls.from_preset(str(name_or_path), **overrides)
        values = saved.read_settings(
            name_or_path,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
        )
        return cls.from_dict(values, **overrides)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self._stated().items())
        return f"{type(self).__name__}({arguments})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BitImageProcessor) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # settings may be changed in place
