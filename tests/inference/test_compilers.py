"""What compilers, tracers and exporters make of a backbone: the same features, at any size."""

import io
import warnings

import pytest
import torch
from networks import ALL, KINDS, PADDINGS, largest_difference, tiny
from torch._dynamo.testing import CompileCounter
from torch.export import Dim
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.feature_extraction import create_feature_extractor

from bit_backbone import optimize_for_inference

# Even, odd and mixed sizes: a baked-in size or border would show. Below 107 pixels "valid" leaves a
# map of one pixel, which torch specialises on.
EXAMPLE = (128, 128)
SIZES = ((128, 128), (113, 109), (108, 131))
# Every kind of network once and every padding once, for what takes seconds.
FEW = [
    (None, "preactivation", "none"),
    ("same", "bottleneck", "groupnorm"),
    ("valid", "preactivation", "preact"),
]
MANY = [(padding, *kind) for padding in PADDINGS for kind in KINDS]
few_cases = pytest.mark.parametrize(("padding", "layer_type", "feature_norm"), FEW)
many_cases = pytest.mark.parametrize(("padding", "layer_type", "feature_norm"), MANY)


def images(size: tuple[int, int], batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, *size)


def backbone_for(padding, layer_type, feature_norm, **arguments):
    return tiny(
        global_padding=padding,
        layer_type=layer_type,
        feature_norm=feature_norm,
        **({"out_indices": (0, 2, 4)} | arguments),
    )


def check_at_every_size(found, backbone, tolerance=1e-5, batches=(1, 2, 3)) -> None:
    with torch.no_grad():
        for batch, size in zip(batches, SIZES, strict=True):
            x = images(size, batch)
            assert largest_difference(found(x), backbone(x)) < tolerance


@pytest.fixture
def quiet():
    """TorchScript's announcements of its own end, and the tracer's of Python conditions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        yield


def test_intermediate_layer_getter_of_torchvision():
    backbone = tiny(out_indices=ALL).eval()
    getter = IntermediateLayerGetter(backbone, {"stem": "stem", "stage2": "2", "stage4": "4"})
    x = images((65, 97))
    expected = backbone(x)
    found = getter(x)
    assert list(found) == ["stem", "2", "4"]
    for name, renamed in (("stem", "stem"), ("stage2", "2"), ("stage4", "4")):
        assert torch.equal(found[renamed], expected[name])


@many_cases
def test_feature_extractor_of_torchvision(padding, layer_type, feature_norm):
    backbone = backbone_for(padding, layer_type, feature_norm).eval()
    extractor = create_feature_extractor(backbone, {"stage2": "middle", "stage4": "last"})
    for size in SIZES:
        x = images(size)
        found, raw = extractor(x), backbone.raw_taps(x, ["stage2", "stage4"])
        # A traced projection keeps its stride, an eager one takes its pixels first.
        assert largest_difference(found, {"middle": raw["stage2"], "last": raw["stage4"]}) < 1e-5
    with pytest.raises(ValueError, match=r"images must be \[N, 3, H, W\]"):
        extractor(torch.randn(1, 4, 64, 64))


@many_cases
def test_torchscript_by_compiling(quiet, padding, layer_type, feature_norm):
    backbone = backbone_for(padding, layer_type, feature_norm, drop_path_rate=0.1).eval()
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(backbone), file)
    file.seek(0)
    check_at_every_size(torch.jit.load(file), backbone)


@many_cases
def test_torchscript_by_tracing(quiet, padding, layer_type, feature_norm):
    backbone = backbone_for(padding, layer_type, feature_norm).eval()
    traced = torch.jit.trace(backbone, images(EXAMPLE), strict=False)
    check_at_every_size(traced, backbone)


def test_torchscript_trains(quiet):
    backbone = tiny(drop_path_rate=0.5).train()
    torch.jit.script(backbone)(images(EXAMPLE))["stage4"].square().mean().backward()
    assert all(p.grad is not None for p in backbone.parameters())


# Batch, height and width; an error where one of them had to be fixed.
DYNAMIC = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}


@few_cases
def test_export_with_dynamic_sizes(padding, layer_type, feature_norm):
    backbone = backbone_for(padding, layer_type, feature_norm).eval()
    exported = torch.export.export(backbone, (images(EXAMPLE),), dynamic_shapes=(DYNAMIC,))
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    check_at_every_size(torch.export.load(file).module(), backbone)


@few_cases
def test_compile_makes_one_graph_for_all_sizes(padding, layer_type, feature_norm):
    torch.compiler.reset()
    backbone = backbone_for(padding, layer_type, feature_norm).eval()
    counter = CompileCounter()
    compiled = torch.compile(backbone, fullgraph=True, backend=counter)
    check_at_every_size(compiled, backbone, batches=(2, 2, 2))
    # The first size has a graph of its own, as torch.compile has it; one serves all others. Older
    # versions' max_pool2d adds a guard on a parity (seen up to 2.12; gone in 2.14).
    assert counter.frame_count <= (2 if torch.__version__ >= "2.14" else 3)


@pytest.mark.parametrize(
    ("feature_norm", "checkpointing"), [("none", False), ("preact", True), ("groupnorm", True)]
)
def test_compiled_training(feature_norm, checkpointing):
    torch.compiler.reset()
    backbone = tiny(feature_norm=feature_norm, out_indices=(1, 3)).freeze(1)
    backbone.set_grad_checkpointing(checkpointing)
    compiled = torch.compile(backbone, fullgraph=True, backend="aot_eager")
    gradients = []
    for network in (backbone, compiled):
        torch.manual_seed(1)
        backbone.zero_grad()
        x = images((65, 49))
        sum(f.square().mean() for f in network(x).values()).backward()
        gradients.append({n: p.grad for n, p in backbone.named_parameters() if p.requires_grad})
    assert largest_difference(*gradients) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("padding", [None, "same"])
def test_compile_with_inductor(padding):
    torch.compiler.reset()
    backbone = tiny(global_padding=padding, out_indices=ALL).eval()
    check_at_every_size(torch.compile(backbone, fullgraph=True), backbone, tolerance=1e-4)


@pytest.mark.parametrize(
    ("padding", "layer_type", "feature_norm"),
    [FEW[0], *(pytest.param(*case, marks=pytest.mark.slow) for case in FEW[1:])],
)
def test_onnx_with_dynamic_sizes(quiet, tmp_path, padding, layer_type, feature_norm):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    backbone = backbone_for(padding, layer_type, feature_norm).eval()
    path = tmp_path / "backbone.onnx"
    torch.onnx.export(
        backbone,
        (images(EXAMPLE),),
        path,
        dynamo=True,
        input_names=["images"],
        output_names=list(backbone.out_features),
        dynamic_shapes=(DYNAMIC,),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(path)  # with its default optimisations

    def run(x):
        values = session.run(None, {"images": x.numpy()})
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, map(torch.from_numpy, values), strict=True))

    # relative to the largest value; a border pooled wrongly is off by 0.1 and more
    check_at_every_size(run, backbone, tolerance=1e-5)


@pytest.mark.parametrize("layer_type", ["preactivation", "bottleneck"])
def test_an_optimized_network_exports_filters_and_not_their_standardization(
    quiet, tmp_path, layer_type
):
    """TensorRT, CoreML and ExecuTorch reject convolutions whose weights the graph computes."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    backbone = tiny(layer_type=layer_type, out_indices=(1, 4)).eval()
    computed = {}
    for name, network in (("plain", backbone), ("optimized", optimize_for_inference(backbone))):
        path = tmp_path / f"{name}.onnx"
        with torch.no_grad():
            torch.onnx.export(network, (torch.randn(1, 3, 64, 64),), path, dynamo=True)
        graph = onnx.load(path).graph
        stored = {tensor.name for tensor in graph.initializer}
        convolutions = [node for node in graph.node if node.op_type == "Conv"]
        assert len(convolutions) == 17  # the stem's, and four in each stage
        computed[name] = sum(node.input[1] not in stored for node in convolutions)
    assert computed == {"plain": 17, "optimized": 0}
