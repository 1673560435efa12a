"""Every kind of model in every format, verified on three sizes, written, and read back."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from models import MODELS, SUFFIX, assert_close
from networks import tiny
from PIL import Image

from bit_backbone import BitImageProcessor, optimize_for_inference
from bit_backbone.checkpoints import CheckpointError
from bit_backbone.export import export, load
from bit_backbone.export.metadata import Metadata
from bit_backbone.export.photographs import photographs
from bit_backbone.export.pixels import Pixels
from bit_backbone.inference import quantization
from bit_backbone.inference.int8 import Int8Conv2d

# Capturing a detector by torch.export takes half a minute, compiling it some.
SLOW = {
    *(
        (kind, name)
        for kind in ("maskrcnn", "keypointrcnn")
        for name in ("openvino", "torchscript")
    ),
    *((model, "torch-export") for model in ("fasterrcnn", "maskrcnn", "keypointrcnn", "retinanet")),
    ("fcos", "torch-export"),
    *((model, "aoti") for model in MODELS),
}
MATRIX = [
    pytest.param(model, name, marks=pytest.mark.slow if (model, name) in SLOW else ())
    for model in MODELS
    for name in SUFFIX
    if name != "aoti" or model not in ("fasterrcnn", "retinanet", "fcos")  # compiled elsewhere
]


@pytest.mark.parametrize(("kind", "name"), MATRIX)
def test_matrix(kind, name, images, tmp_path):
    model = MODELS[kind]()
    path = tmp_path / "made" / f"model{SUFFIX[name]}"
    report = export(model, path, format=name, images=images)
    assert [check.size for check in report.checks] == [(97, 131), (200, 150), (113, 113)]
    assert report.size == sum(file.stat().st_size for file in path.parent.iterdir())
    names = {path.name, "model.bin"} if name == "openvino" else {path.name}
    assert {file.name for file in path.parent.iterdir()} == names
    read = load(path)
    assert (read.format, read.metadata.task) == (name, report.task)
    given = _given(report.task)
    with torch.no_grad():
        assert_close(read(given), model(given))


def _given(task):
    image = torch.rand(3, 90, 120)
    return image[None] if task in ("features", "classification") else [image]


@pytest.mark.parametrize("kind", ["classifier", "pyramid", "deeplab", "fasterrcnn"])
@pytest.mark.parametrize("name", ["onnx", "openvino", "torchscript"])
def test_preprocessing_in_the_file(kind, name, images, tmp_path):
    processor = BitImageProcessor(size=80, crop_size=64) if kind == "classifier" else None
    path = tmp_path / f"model{SUFFIX[name]}"
    export(MODELS[kind](), path, format=name, images=images, with_preprocessing=True,
           processor=processor)  # fmt: skip
    found = load(path)(torch.randint(0, 256, (75, 99, 3), dtype=torch.uint8))
    assert all(isinstance(value, torch.Tensor) for value in found.values())


@pytest.mark.parametrize("kind", ["backbone", "preact", "classifier", "fcn", "fasterrcnn"])
@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_8_bits(name, kind, images, tmp_path, monkeypatch):
    """Verified to be near the model, and of the same weights as in PyTorch."""
    monkeypatch.setattr(quantization, "has_int8", lambda: True)
    model = MODELS[kind]()
    path = tmp_path / f"model{SUFFIX[name]}"
    report = export(model, path, format=name, images=images, precision="int8")
    assert report.checks[0].difference.problem is None
    assert load(path).metadata.precision == "int8"
    if name == "openvino":
        return
    stored = onnx_integers(path)
    fast = optimize_for_inference(model, dtype=torch.int8)
    convs = [module for module in fast.modules() if isinstance(module, Int8Conv2d)]
    assert len(stored) == len(convs) == 16
    assert {c.weight.float().sum().item() for c in convs} == {float(s.sum()) for s in stored}


def onnx_integers(path):
    onnx = pytest.importorskip("onnx")
    tensors = map(onnx.numpy_helper.to_array, onnx.load(path).graph.initializer)
    return [t.astype(np.float32) for t in tensors if t.dtype == np.int8 and t.ndim == 4]


def test_8_bits_are_for_pre_activation_and_onnx(images, tmp_path):
    model = tiny(layer_type="bottleneck").eval()
    with pytest.raises(ValueError, match="takes pre-activation networks"):
        export(model, tmp_path / "m.onnx", format="onnx", images=images, precision="int8")
    message = "torchscript takes .*got int8; onnx, openvino take it"
    with pytest.raises(ValueError, match=message):
        export(model, tmp_path / "m.pt", format="torchscript", images=images, precision="int8")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["maskrcnn", "fcos"])
def test_a_detector_that_finds_nothing_is_compared_with_a_lower_threshold(kind, images, tmp_path):
    model = MODELS[kind]()
    rules = getattr(model, "roi_heads", model)
    rules.score_thresh = 0.9999
    path = tmp_path / "model.onnx"
    report = export(model, path, format="onnx", images=images)
    assert all(check.difference.compares for check in report.checks)
    assert rules.score_thresh == 0.9999
    (found,) = load(path)([torch.rand(3, 90, 120)])
    assert len(found["boxes"]) == 0


@pytest.mark.parametrize("kind", ["classifier", "backbone"])
def test_wrong_preprocessing_in_a_file_is_noticed(kind, images, tmp_path, monkeypatch):
    processor = BitImageProcessor(size=80, crop_size=64) if kind == "classifier" else None
    forward = Pixels.forward
    monkeypatch.setattr(Pixels, "forward", lambda self, x: forward(self, x.flip(1)))
    with pytest.raises(ValueError, match="differs from the model"):
        export(MODELS[kind](), tmp_path / "model.onnx", format="onnx", images=images,
               with_preprocessing=True, processor=processor)  # fmt: skip


def test_images_of_one_size_are_cut_to_three_sizes(tmp_path):
    for name in "abc":
        Image.new("RGB", (160, 120)).save(tmp_path / f"{name}.png")
    sizes = {image.shape for image in photographs(tmp_path, None)}
    assert sizes == {(120, 160, 3), (90, 160, 3), (105, 100, 3)}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task", 3),
        ("outputs", ["a", 1]),
        ("with_nms", "yes"),
        ("image_size", [64]),
        ("preprocessing", [1]),
        ("bit_depth", None),
    ],
)
def test_metadata_of_another_type(name, value):
    values = json.loads(Metadata("features", "net", "images", ("stage1",)).to_json())
    assert Metadata.from_json(json.dumps(values), "model.onnx").outputs == ("stage1",)
    with pytest.raises(
        CheckpointError, match=f"model.onnx .*{name} is .* should be .*export again"
    ):
        Metadata.from_json(json.dumps(values | {name: value}), "model.onnx")


@pytest.mark.parametrize("kind", ["backbone", "classifier"])
def test_a_model_in_half_precision(kind, images, tmp_path):
    """Its weights are stored as they are, and the file computes in float32."""
    model = MODELS[kind]().to(torch.bfloat16)
    path = tmp_path / "model.onnx"
    export(model, path, format="onnx", images=images)
    (found, *_) = load(path)(torch.rand(1, 3, 64, 64)).values()
    assert found.dtype == torch.float32


@pytest.mark.parametrize("kind", ["backbone", "fcn", "retinanet"])
@pytest.mark.parametrize("name", ["onnx", "openvino", "torch-export", "torchscript"])
def test_one_size(kind, name, images, tmp_path):
    path = tmp_path / f"model{SUFFIX[name]}"
    export(MODELS[kind](), path, format=name, images=images, image_size=(96, 128))
    read = load(path)
    if kind == "backbone":
        batch = torch.rand(2, 3, 96, 128)
        assert read(batch)["stage4"].shape[0] == 2
    given = torch.rand(3, 96, 160)
    with pytest.raises(ValueError, match="takes only images of 96x128, got 96x160"):
        read(given[None] if kind == "backbone" else [given])


@pytest.mark.parametrize("kind", ["fasterrcnn", "fcos"])
def test_all_candidates(kind, images, tmp_path):
    path = tmp_path / "model.onnx"
    export(MODELS[kind](), path, format="onnx", images=images, with_nms=False)
    (found,) = load(path)([torch.rand(3, 90, 120)])
    assert len(found["boxes"]) == len(found["scores"]) == len(found["labels"]) > 20


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("onnx", "float16"),
        ("openvino", "float16"),
        ("torch-export", "bfloat16"),
        ("torchscript", "bfloat16"),
        ("torchscript", "float16"),
    ],
)
def test_half_precision(name, precision, images, tmp_path):
    sizes = []
    for each in ("float32", precision):
        path = tmp_path / f"{each}{SUFFIX[name]}"
        model = MODELS["backbone"]()
        sizes.append(export(model, path, format=name, images=images, precision=each).size)
    assert sizes[1] < 0.75 * sizes[0]


@pytest.mark.slow
def test_compiled_in_half_precision(images, tmp_path):
    """Of a tiny network's file most is machine code, so its size says little."""
    model, given = MODELS["backbone"](), torch.rand(1, 3, 90, 120)
    path = tmp_path / "model.pt2"
    export(model, path, format="aoti", images=images, precision="bfloat16")
    with torch.no_grad():
        wanted = model(given)
    for name, found in load(path)(given).items():
        scale = float(wanted[name].abs().max())
        torch.testing.assert_close(found.float(), wanted[name], atol=0.05 * scale, rtol=0)
        assert not torch.allclose(found.float(), wanted[name], atol=1e-5 * scale, rtol=0)


def test_a_files_weights_are_the_models_and_its_graph_holds_no_standardization(images, tmp_path):
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "model.onnx"
    export(MODELS["backbone"](), path, format="onnx", images=images)
    graph = onnx.load(path).graph
    stored = {tensor.name for tensor in graph.initializer}
    kinds = Counter(_groups(node) > 1 for node in graph.node if node.op_type == "Conv")
    assert kinds == {False: 17, True: 12}  # four units of three norms
    assert all(node.input[1] in stored for node in graph.node if node.op_type == "Conv")
    assert not {"ReduceMean", "LayerNormalization"} & {node.op_type for node in graph.node}


def _groups(node):
    return next(attribute.i for attribute in node.attribute if attribute.name == "group")


@pytest.mark.parametrize(("kind", "precision"), [("backbone", "float16"), ("preact", "int8")])
def test_only_float32_graphs_have_norms_as_convolutions(kind, precision, images, tmp_path):
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "model.onnx"
    export(MODELS[kind](), path, format="onnx", images=images, precision=precision)
    assert all(_groups(node) == 1 for node in onnx.load(path).graph.node if node.op_type == "Conv")
