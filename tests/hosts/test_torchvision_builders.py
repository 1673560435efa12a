"""The torchvision builders: one training step, one inference, what trains, what is rejected."""

from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

from bit_backbone import BitBackbone, BitConfig, BitForImageClassification
from bit_backbone.checkpoints import CheckpointError
from bit_backbone.config import DENSE_FEATURE_NORM
from bit_backbone.torchvision import (
    bit_fpn_backbone,
    bit_r50x1,
    deeplabv3_bit,
    fasterrcnn_bit_fpn,
    fcn_bit,
    fcos_bit_fpn,
    keypointrcnn_bit_fpn,
    maskrcnn_bit_fpn,
    retinanet_bit_fpn,
)
from bit_backbone.torchvision.body import dense_config
from bit_backbone.torchvision.tiny import fasterrcnn_bit_tiny_fpn

TINY = BitConfig(
    embedding_size=16, hidden_sizes=(32, 64, 128, 256), depths=(1, 1, 1, 1), num_groups=8
)
ODD_SIZES = [(97, 131), (75, 61)]
DETECTORS = [
    fasterrcnn_bit_fpn,
    maskrcnn_bit_fpn,
    keypointrcnn_bit_fpn,
    retinanet_bit_fpn,
    fcos_bit_fpn,
]
SEGMENTERS = [deeplabv3_bit, fcn_bit]


FEW_BOXES = {
    "rpn_post_nms_top_n_train": 40,
    "rpn_post_nms_top_n_test": 20,
    "box_batch_size_per_image": 16,
    "box_detections_per_img": 5,
}


def detector(builder=fasterrcnn_bit_fpn, **kwargs):
    arguments = {"variant": TINY, "num_classes": 5, "min_size": 64, "max_size": 96}
    if builder not in (retinanet_bit_fpn, fcos_bit_fpn):
        arguments |= FEW_BOXES
    return builder(**(arguments | kwargs))


def images(channels=3):
    return [torch.rand(channels, height, width) for height, width in ODD_SIZES]


def targets():
    """Two objects in each image, with masks and keypoints."""
    result = []
    for height, width in ODD_SIZES:
        boxes = torch.tensor([[3.0, 5.0, 40.0, 51.0], [20.0, 11.0, 58.0, 44.0]])
        masks = torch.zeros(2, height, width, dtype=torch.uint8)
        masks[0, 5:51, 3:40], masks[1, 11:44, 20:58] = 1, 1
        keypoints = torch.tensor([10.0, 20.0, 1.0]).repeat(2, 17, 1)
        keypoints[1, :, 0] += 20
        labels = torch.tensor([1, 1])
        result.append({"boxes": boxes, "masks": masks, "keypoints": keypoints, "labels": labels})
    return result


def assert_every_gradient_is_finite(model, loss):
    loss.backward()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, name
            continue
        assert parameter.grad is not None, f"{name} got no gradient"
        assert parameter.grad.isfinite().all(), name


def assert_detector_trains(model, channels=3):
    assert_every_gradient_is_finite(model, sum(model(images(channels), targets()).values()))


class TestDetectors:
    @pytest.mark.parametrize("builder", DETECTORS, ids=lambda b: b.__name__)
    def test_one_step_and_one_inference(self, builder):
        model = detector(builder)
        assert model.transform.image_mean == [0.5] * 3
        assert model.transform.image_std == [0.5] * 3
        assert_detector_trains(model)
        with torch.no_grad():
            found = model.eval()(images())
        for detections, (height, width) in zip(found, ODD_SIZES, strict=True):
            assert all(value.isfinite().all() for value in detections.values())
            assert (detections["boxes"] <= torch.tensor([width, height] * 2)).all()
        if builder is maskrcnn_bit_fpn:
            assert found[0]["masks"].shape[1:] == (1, *ODD_SIZES[0])
        if builder is keypointrcnn_bit_fpn:
            assert found[0]["keypoints"].shape[1:] == (17, 3)

    @pytest.mark.parametrize(
        "overrides",
        [
            {"feature_norm": "preact"},
            {"feature_norm": "groupnorm"},
            {"norm_layer": partial(nn.GroupNorm, 32)},
            {"variant": TINY.replace(global_padding="same")},
            {"variant": TINY.replace(layer_type="bottleneck")},
            {"variant": TINY.replace(drop_path_rate=0.2)},
            {"variant": TINY.replace(width_factor=2)},
        ],
        ids=str,
    )
    def test_other_networks_train(self, overrides):
        assert_detector_trains(detector(**overrides))

    def test_checkpointing_changes_no_loss(self):
        model = detector(retinanet_bit_fpn)
        batch, truth = images(), targets()
        plain = model(batch, truth)
        model.backbone.body.set_grad_checkpointing(True)
        recomputed = model(batch, truth)
        torch.testing.assert_close(recomputed, plain)

    def test_grey_images(self):
        model = detector(variant=TINY.replace(num_channels=1))
        assert model.transform.image_mean == [0.5]
        assert_detector_trains(model, channels=1)

    @pytest.mark.parametrize("builder", DETECTORS, ids=lambda b: b.__name__)
    def test_levels(self, builder):
        three_to_seven = builder in (retinanet_bit_fpn, fcos_bit_fpn)
        levels = detector(builder).backbone(torch.rand(1, 3, 128, 192))
        names = ["0", "1", "2", "p6", "p7"] if three_to_seven else ["0", "1", "2", "3", "pool"]
        assert list(levels) == names
        assert levels["0"].shape == (1, 256, *((16, 24) if three_to_seven else (32, 48)))

    def test_defaults_of_torchvision(self):
        with torch.device("meta"):
            model = fasterrcnn_bit_fpn()
            people = keypointrcnn_bit_fpn()
        assert model.roi_heads.box_predictor.cls_score.out_features == 91
        assert model.backbone.body.channels == (256, 512, 1024, 2048)
        assert people.roi_heads.box_predictor.cls_score.out_features == 2
        assert people.roi_heads.keypoint_predictor.out_channels == 17

    def test_arguments_reach_the_host(self):
        model = detector(image_mean=[0.4] * 3, box_score_thresh=0.3)
        assert model.transform.image_mean == [0.4] * 3
        assert model.roi_heads.score_thresh == 0.3

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ({"variant": "R18x1"}, "R50x1"),
            (
                {"variant": BitConfig(hidden_sizes=(256, 512, 1024), depths=(3, 4, 6))},
                r"four stages.*got 3.*bit_fpn_backbone",
            ),
            ({"variant": TINY.replace(output_stride=16)}, r"must double.*\(4, 8, 16, 16\)"),
            ({"feature_norm": "batch"}, "feature_norm must be one of"),
            ({"weights": "DEFAULT"}, "nothing is published, got 'DEFAULT'"),
        ],
    )
    def test_rejected(self, overrides, message):
        with pytest.raises(ValueError, match=message):
            detector(**overrides)


class TestSegmenters:
    @pytest.mark.parametrize("output_stride", [8, 16])
    @pytest.mark.parametrize("aux", [False, True])
    @pytest.mark.parametrize("builder", SEGMENTERS, ids=lambda b: b.__name__)
    def test_one_step_and_one_inference(self, builder, aux, output_stride):
        model = builder(variant=TINY, num_classes=4, aux_loss=aux, output_stride=output_stride)
        outputs = model(torch.randn(2, 3, *ODD_SIZES[0]))
        assert list(outputs) == ["out", "aux"] if aux else ["out"]
        truth = torch.randint(4, (2, *ODD_SIZES[0]))
        loss = sum(nn.functional.cross_entropy(output, truth) for output in outputs.values())
        assert_every_gradient_is_finite(model, loss)
        with torch.no_grad():
            inferred = model.eval()(torch.randn(1, 3, *ODD_SIZES[1]))["out"]
        assert inferred.shape == (1, 4, *ODD_SIZES[1])
        assert inferred.isfinite().all()

    @pytest.mark.parametrize(("output_stride", "size"), [(8, (13, 17)), (16, (7, 9))])
    def test_output_stride(self, output_stride, size):
        model = fcn_bit(variant=TINY, aux_loss=True, output_stride=output_stride)
        features = model.backbone(torch.randn(1, 3, *ODD_SIZES[0]))
        assert list(features) == ["aux", "out"]
        assert features["out"].shape[-2:] == size
        assert model.backbone.body.strides == (min(16, output_stride), output_stride)

    def test_what_trains(self):
        assert trained_layers(deeplabv3_bit(variant=TINY)) == {"stem", *STAGES}
        model = deeplabv3_bit(variant=TINY, trainable_backbone_layers=2)
        assert trained_layers(model) == {"stage3", "stage4"}

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ({"output_stride": 7}, "output_stride must be one of 4, 8, 16, 32, got 7"),
            ({"trainable_backbone_layers": 6}, r"trainable_layers must be in \[0, 5\].*got 6"),
            ({"weights": "DEFAULT"}, "nothing is published"),
        ],
    )
    @pytest.mark.parametrize("builder", SEGMENTERS, ids=lambda b: b.__name__)
    def test_rejected(self, builder, overrides, message):
        with pytest.raises(ValueError, match=message):
            builder(variant=TINY, **overrides)


class TestArguments:
    @pytest.mark.parametrize("builder", [*DETECTORS, fasterrcnn_bit_tiny_fpn])
    def test_one_that_nobody_reads_is_rejected(self, builder):
        """torchvision's own builders drop it."""
        with pytest.raises(ValueError, match=r"does not take min_sise; it takes .*min_size, "):
            builder(min_sise=64)
        with pytest.raises(ValueError, match=r"take weigths_backbone.* takes .*weights_backbone"):
            builder(weigths_backbone="BiT-M-R50x1")

    @pytest.mark.parametrize("builder", DETECTORS)
    def test_those_of_the_transform_are_handed_on(self, builder):
        assert detector(builder, size_divisible=64).transform.size_divisible == 64

    def test_one_of_the_network_is_sent_to_it(self):
        with pytest.raises(ValueError, match="variant takes a BitConfig with output_stride; it"):
            retinanet_bit_fpn(output_stride=16)
        with pytest.raises(ValueError, match="tiny_fpn does not take output_stride; it takes"):
            fasterrcnn_bit_tiny_fpn(output_stride=16)  # its network is fixed

    def test_a_network_that_is_built_already_is_rejected(self):
        with pytest.raises(ValueError, match="name or a BitConfig, got a BitBackbone"):
            bit_fpn_backbone(BitBackbone(TINY))


STAGES = ("stage1", "stage2", "stage3", "stage4")


def trained_layers(model):
    """Names of the backbone's children that have a trainable parameter."""
    body = model.backbone.body if hasattr(model, "backbone") else model.body
    return {name.split(".")[0] for name, p in body.named_parameters() if p.requires_grad}


def layers_torchvision_trains(count):
    """What torchvision's own ResNet builder leaves trainable, in our names."""
    resnet = resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=count,
        returned_layers=[1, 2, 3, 4],
    )
    ours = {"conv1": "stem", "bn1": "stem"} | {f"layer{i}": f"stage{i}" for i in range(1, 5)}
    return {ours[n.split(".")[0]] for n, p in resnet.body.named_parameters() if p.requires_grad}


class TestTrainableLayers:
    @pytest.mark.parametrize("count", range(6))
    def test_as_torchvision_freezes_its_resnet(self, count):
        backbone = bit_fpn_backbone(TINY, trainable_layers=count)
        assert trained_layers(backbone) == layers_torchvision_trains(count)
        assert all(p.requires_grad for p in backbone.fpn.parameters())

    @pytest.mark.parametrize("count", range(6))
    def test_norms_behind_the_stages(self, count):
        final = bit_fpn_backbone(TINY, trainable_layers=count, feature_norm="preact").body.norm
        assert all(p.requires_grad == (count > 0) for p in final.parameters())
        body = bit_fpn_backbone(TINY, trainable_layers=count, feature_norm="groupnorm").body
        assert all(p.requires_grad for p in body.feature_norms.parameters())

    @pytest.mark.parametrize("count", range(6))
    def test_frozen_layers_take_no_gradient(self, count, weights_file):
        model = detector(weights_backbone=weights_file, trainable_backbone_layers=count)
        assert trained_layers(model) == layers_torchvision_trains(count)
        assert_detector_trains(model)

    def test_default_depends_on_the_weights(self, weights_file):
        assert trained_layers(bit_fpn_backbone(TINY)) == {"stem", *STAGES}
        assert trained_layers(detector()) == {"stem", *STAGES}
        pretrained = bit_fpn_backbone(TINY, weights=weights_file)
        assert trained_layers(pretrained) == {"stage2", "stage3", "stage4"}
        assert trained_layers(detector(weights_backbone=weights_file)) == set(STAGES[1:])

    def test_without_weights_everything_trains_with_a_warning(self):
        with pytest.warns(UserWarning, match="trainable_backbone_layers has no effect"):
            model = detector(trainable_backbone_layers=2)
        assert trained_layers(model) == {"stem", *STAGES}

    @pytest.mark.parametrize("count", [-1, 6, 2.0, True, "3"])
    def test_rejected(self, count):
        with pytest.raises(ValueError, match=r"must be in \[0, 5\].*stem, stage1.*got"):
            bit_fpn_backbone(TINY, trainable_layers=count)


@pytest.fixture
def weights_file(tmp_path):
    """A classifier's state dict: the backbone's weights and a head that nobody asks for."""
    torch.manual_seed(1)
    path = tmp_path / "classifier.pth"
    torch.save(BitForImageClassification(TINY).state_dict(), path)
    return path


class TestWeights:
    @pytest.mark.parametrize("builder", [*DETECTORS, *SEGMENTERS], ids=lambda b: b.__name__)
    def test_backbone_gets_them(self, builder, weights_file):
        expected = torch.load(weights_file)
        body = builder(variant=TINY, weights_backbone=weights_file).backbone.body
        assert set(body.state_dict()) <= set(expected)
        for name, tensor in body.state_dict().items():
            torch.testing.assert_close(tensor, expected[name])

    def test_part_of_a_network(self, weights_file):
        backbone = bit_fpn_backbone(
            TINY, weights=str(weights_file), returned_layers=[1, 2], feature_norm="groupnorm"
        )
        expected = torch.load(weights_file)
        torch.testing.assert_close(
            backbone.body.stage2[0].conv1.weight, expected["stage2.0.conv1.weight"]
        )
        assert (backbone.body.feature_norms["stage2"].weight == 1).all()
        assert all(not t.is_meta for t in backbone.state_dict().values())

    @pytest.mark.parametrize("builder", [fasterrcnn_bit_fpn, deeplabv3_bit])
    def test_another_network_is_rejected(self, builder, weights_file):
        with pytest.raises(CheckpointError, match="does not fit"):
            builder(variant=TINY.replace(depths=(1, 2, 1, 1)), weights_backbone=weights_file)

    def test_missing_file(self, tmp_path):
        with pytest.raises(CheckpointError, match="nowhere"):
            bit_fpn_backbone(TINY, weights=tmp_path / "nowhere.pth")


class TestFPNBackbone:
    def test_is_torchvisions(self):
        backbone = bit_fpn_backbone(TINY)
        assert type(backbone.fpn) is FeaturePyramidNetwork
        assert backbone.out_channels == 256
        assert list(backbone(torch.rand(1, 3, 65, 97))) == ["0", "1", "2", "3", "pool"]

    @pytest.mark.parametrize(
        ("layers", "config", "strides"),
        [
            ([1, 2, 3, 4], TINY, (4, 8, 16, 32)),
            ([2, 3, 4], TINY, (8, 16, 32)),
            ([4], TINY, (32,)),
            ([1, 2, 3], TINY.replace(output_stride=16), (4, 8, 16)),
            ([1, 2, 4], TINY.replace(output_stride=16), (4, 8, 16)),
            ([1, 4], TINY.replace(output_stride=8), (4, 8)),
        ],
    )
    def test_returned_layers(self, layers, config, strides):
        backbone = bit_fpn_backbone(config, returned_layers=layers)
        levels = backbone(torch.rand(1, 3, 64, 64))
        assert list(levels) == [*map(str, range(len(layers))), "pool"]
        heights = [level.shape[-2] for level in levels.values()]
        assert heights[:-1] == [64 // stride for stride in strides]

    @pytest.mark.parametrize(
        ("layers", "config", "message"),
        [
            (None, TINY.replace(output_stride=16), r"double.*\(4, 8, 16, 16\).*returned_layers"),
            (None, TINY.replace(output_stride=8), r"double.*\(4, 8, 8, 8\).*output_stride=32"),
            ([1, 3], TINY, r"double.*\(4, 16\)"),
            ([0, 1], TINY, r"returned_layers must be in \[1, 4\].*\[0, 1\]"),
            ([4, 5], TINY, r"returned_layers must be in \[1, 4\].*\[4, 5\]"),
            ([3, 2], TINY, "ordered shallow to deep"),
            ([2, 2], TINY, "must not repeat"),
            ([], TINY, "must not be empty"),
        ],
    )
    def test_rejected(self, layers, config, message):
        with pytest.raises(ValueError, match=message):
            bit_fpn_backbone(config, returned_layers=layers)

    def test_a_detector_of_ones_own(self):
        backbone = bit_fpn_backbone(
            TINY,
            returned_layers=[2, 3, 4],
            extra_blocks=LastLevelP6P7(64, 64),
            norm_layer=partial(nn.GroupNorm, 8),
            out_channels=64,
        )
        model = FasterRCNN(
            backbone, 5, min_size=64, max_size=96, image_mean=[0.5] * 3, image_std=[0.5] * 3
        )
        assert any(isinstance(module, nn.GroupNorm) for module in backbone.fpn.modules())
        assert_detector_trains(model)

    def test_feature_norm_of_a_variant_is_that_of_dense_tasks(self):
        assert dense_config("R50x1").feature_norm == DENSE_FEATURE_NORM == "preact"
        assert dense_config("R50x1", "none").feature_norm == "none"
        assert dense_config(TINY).feature_norm == "none"

    def test_feature_norm_of_a_config_is_kept(self):
        assert bit_fpn_backbone(TINY.replace(feature_norm="preact")).body.norm is not None
        overridden = bit_fpn_backbone(TINY.replace(feature_norm="preact"), feature_norm="none")
        assert overridden.body.norm is None


class TestClassifiers:
    def test_one_step_and_one_inference(self):
        model = bit_r50x1(
            embedding_size=16,
            hidden_sizes=(32, 64, 128, 256),
            depths=(1, 1, 1, 1),
            num_groups=8,
            num_classes=7,
        )
        batch = torch.randn(2, 3, *ODD_SIZES[0])
        assert_every_gradient_is_finite(
            model, nn.functional.cross_entropy(model(batch), torch.tensor([1, 6]))
        )
        twin = BitForImageClassification(model.config).eval()
        twin.load_state_dict(model.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(model.eval()(batch), twin(batch).logits)

    def test_classes_must_be_those_of_the_weights(self):
        with pytest.raises(ValueError, match=r"num_classes must be 21843.*got 10.*reset_classif"):
            bit_r50x1(weights="IMAGENET21K_BIT_M", num_classes=10)
