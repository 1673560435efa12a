"""BitModel and BitForImageClassification: outputs, losses and the head, without other libraries."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

from bit_backbone import BitBackbone, BitConfig, BitForImageClassification, BitModel
from bit_backbone.config import VARIANTS
from bit_backbone.heads import classification_loss

TINY = BitConfig(
    embedding_size=16, hidden_sizes=(32, 64, 128, 256), depths=(1, 1, 1, 1), num_groups=8,
    num_labels=5,
)  # fmt: skip
IMAGES = torch.linspace(-1, 1, 2 * 3 * 65 * 47).reshape(2, 3, 65, 47).sin()
LOGITS = torch.tensor([[0.5, -1.0, 2.0], [0.0, 1.0, -0.5]])


def test_r50x1_at_224():
    model = BitModel(BitConfig()).eval()
    with torch.no_grad():
        out = model(torch.zeros(1, 3, 224, 224), output_hidden_states=True)
    assert out.last_hidden_state.shape == (1, 2048, 7, 7)
    assert out.pooler_output.shape == (1, 2048, 1, 1)
    assert [tuple(state.shape[1:]) for state in out.hidden_states] == [
        (64, 56, 56), (256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7),
    ]  # fmt: skip


# With 1000 classes; big_transfer's README and timm's result tables round these.
PARAMETERS = {"R50x1": 25_549_352, "R50x3": 217_319_080, "R101x1": 44_541_480,
              "R101x3": 387_934_888, "R152x2": 236_335_208, "R152x4": 936_533_224}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_widths_have_the_published_parameters(variant):
    with torch.device("meta"):
        model = BitForImageClassification(variant)
        out = model(torch.empty(1, 3, 224, 224))
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[variant]
    assert out.logits.shape == (1, 1000)


@pytest.mark.parametrize("width_factor", [1, 2, 3])
@pytest.mark.parametrize("layer_type", ["preactivation", "bottleneck"])
def test_classifier_is_linear_on_the_pooled_features(width_factor, layer_type):
    config = TINY.replace(width_factor=width_factor, layer_type=layer_type)
    classifier = BitForImageClassification(config)
    model = BitModel(config)
    model.load_state_dict(classifier.state_dict(), strict=False)
    expected = F.linear(
        model(IMAGES).pooler_output[:, :, 0, 0],
        classifier.classifier.weight,
        classifier.classifier.bias,
    )
    torch.testing.assert_close(classifier(IMAGES).logits, expected)
    assert (model.norm is None) == (layer_type == "bottleneck")


def test_names_are_those_of_the_backbone():
    names = set(BitBackbone(TINY, feature_norm="preact").state_dict())
    assert set(BitModel(TINY).state_dict()) == names
    head = {"classifier.weight", "classifier.bias"}
    assert set(BitForImageClassification(TINY).state_dict()) == names | head


def test_hidden_states_are_the_backbones_features():
    model = BitModel(TINY)
    backbone = BitBackbone(TINY, out_features=TINY.stage_names)
    backbone.load_state_dict(model.state_dict(), strict=False)
    states = model(IMAGES, output_hidden_states=True).hidden_states
    for state, feature in zip(states, backbone(IMAGES).values(), strict=True):
        torch.testing.assert_close(state, feature, rtol=0, atol=0)


def test_every_parameter_gets_a_gradient():
    model = BitForImageClassification(TINY)
    model(IMAGES, labels=torch.tensor([0, 4])).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_outputs_by_attribute_key_and_position():
    model = BitForImageClassification(TINY)
    with torch.no_grad():
        out = model(IMAGES, labels=torch.tensor([0, 4]), output_hidden_states=True)
        bare = model(IMAGES)
    assert out.loss is out["loss"] is out[0] is out.to_tuple()[0] is out[:1][0]
    assert out.logits is out["logits"] is out[1] is out[:2][1]
    assert list(out) == ["loss", "logits", "hidden_states"]
    assert len(out) == 3
    assert bare.logits is bare[0]
    assert bare.loss is None
    assert bare.hidden_states is None
    assert "loss" not in bare
    assert bare.get("loss") is None
    with pytest.raises(KeyError, match="loss"):
        bare["loss"]
    with pytest.raises(KeyError, match="attentions"):
        out["attentions"]
    with pytest.raises(IndexError):
        bare[1]


@pytest.mark.parametrize(
    ("options", "lengths"),
    [
        ({}, [1, 2]),
        ({"output_hidden_states": True}, [2, 3]),
        ({"output_hidden_states": False}, [1, 2]),
    ],
)
def test_tuples(options, lengths):
    classifier, model = BitForImageClassification(TINY), BitModel(TINY)
    out = classifier(IMAGES, return_dict=False, **options)
    assert isinstance(out, tuple)
    assert len(out) == lengths[0]
    assert len(model(IMAGES, return_dict=False, **options)) == lengths[1]
    with_loss = classifier(IMAGES, labels=torch.tensor([1, 2]), return_dict=False, **options)
    assert with_loss[0].ndim == 0
    assert len(with_loss) == lengths[0] + 1


@pytest.mark.parametrize("kind", [BitModel, BitForImageClassification])
@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_the_configuration_says_what_a_call_does_not(kind, states, named, tmp_path):
    settings = {"output_hidden_states": states, "return_dict": named}
    kind(TINY, **settings).save_pretrained(tmp_path)
    model = kind.from_pretrained(tmp_path)
    assert isinstance(model(IMAGES), tuple) is not named
    found = dict(enumerate(model(IMAGES))) if not named else model(IMAGES)
    expected = model(IMAGES, **settings)
    expected = dict(enumerate(expected)) if not named else expected
    assert list(found) == list(expected)
    assert ("hidden_states" in found if named else isinstance(model(IMAGES)[-1], tuple)) is states
    # a call has the last word
    assert (model(IMAGES, return_dict=True).hidden_states is not None) is states
    other = model(IMAGES, output_hidden_states=not states, return_dict=True)
    assert (other.hidden_states is None) is states
    assert isinstance(model(IMAGES, return_dict=False), tuple)


@pytest.mark.parametrize("kind", [BitModel, BitForImageClassification])
def test_missing_images_are_told(kind):
    message = rf"{kind.__name__} needs pixel_values, \[N, 3, H, W\], got None; BitImageProcessor"
    with pytest.raises(ValueError, match=message):
        kind(TINY)(pixel_values=None)
    with pytest.raises(ValueError, match="BitForImageClassification needs pixel_values"):
        BitForImageClassification(TINY)(labels=torch.tensor([1]))
    with pytest.raises(TypeError, match="interpolate"):
        kind(TINY)(IMAGES, interpolate_pos_encoding=True)


@pytest.mark.parametrize("kind", [BitBackbone, BitModel, BitForImageClassification])
def test_device_and_dtype(kind):
    model = kind(TINY).double()
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float64)
    assert model.to("meta").device.type == "meta"


@pytest.mark.parametrize(
    ("labels", "problem_type", "expected"),
    [
        (torch.tensor([2, 1]), None, F.cross_entropy(LOGITS, torch.tensor([2, 1]))),
        (torch.tensor([2, 1], dtype=torch.int32), None,
         F.cross_entropy(LOGITS, torch.tensor([2, 1]))),
        (torch.tensor([[2], [1]]), None, F.cross_entropy(LOGITS, torch.tensor([2, 1]))),
        (torch.tensor([2, -100]), None, F.cross_entropy(LOGITS[:1], torch.tensor([2]))),
        (torch.tensor([[0.5, 0, 0.5], [0, 1, 0]]), "single_label_classification",
         (F.cross_entropy(LOGITS, torch.tensor([0, 1])) * 2
          + F.cross_entropy(LOGITS, torch.tensor([2, 1])) * 2) / 4),
        (torch.tensor([[1.0, 0, 1], [0, 1, 0]]), None, F.binary_cross_entropy(
            LOGITS.sigmoid(), torch.tensor([[1.0, 0, 1], [0, 1, 0]]))),
        (torch.tensor([[1, 0, 1], [0, 1, 0]]), None, F.binary_cross_entropy(
            LOGITS.sigmoid(), torch.tensor([[1.0, 0, 1], [0, 1, 0]]))),
        (torch.ones(2, 3), "regression", ((LOGITS - 1) ** 2).mean()),
    ],
)  # fmt: skip
def test_loss(labels, problem_type, expected):
    torch.testing.assert_close(classification_loss(LOGITS, labels, problem_type), expected)


@pytest.mark.parametrize("labels", [torch.tensor([1.0, 3.0]), torch.tensor([[1], [3]])])
def test_one_label_is_regression(labels):
    model = BitForImageClassification(TINY, num_labels=1)
    out = model(IMAGES, labels=labels)
    torch.testing.assert_close(out.loss, ((out.logits[:, 0] - torch.tensor([1.0, 3])) ** 2).mean())


def test_problem_type_comes_from_the_configuration():
    config = TINY.replace(problem_type="multi_label_classification")
    assert BitConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match=r"multi_label_classification .*\[2, 5\], got \[2\]"):
        BitForImageClassification(config)(IMAGES, labels=torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"problem_type must be one of .* got 'ranking'"):
        TINY.replace(problem_type="ranking")


@pytest.mark.parametrize(
    ("labels", "problem_type", "message"),
    [
        (torch.zeros(2), None, r"multi_label_classification .* \[2, 3\], got \[2\]"),
        (torch.zeros(2, 2), "regression", r"regression .* \[2, 3\], got \[2, 2\]"),
        (torch.zeros(2), "single_label_classification",
         r"integers \[2\] or probabilities \[2, 3\], got torch.float32 \[2\]"),
        (torch.zeros(3, dtype=torch.long), "single_label_classification", r"got torch.int64 \[3\]"),
    ],
)  # fmt: skip
def test_labels_that_are_rejected(labels, problem_type, message):
    with pytest.raises(ValueError, match=message):
        classification_loss(LOGITS, labels, problem_type)


def test_reset_classifier():
    model = BitForImageClassification(TINY).double().eval()
    body = copy.deepcopy(BitModel.state_dict(model))
    model.reset_classifier(2, id2label={0: "cat", 1: "dog"})
    assert (model.num_labels, model.config.id2label) == (2, {0: "cat", 1: "dog"})
    assert model.config.label2id == {"cat": 0, "dog": 1}
    assert (model.classifier.out_features, model.classifier.weight.dtype) == (2, torch.float64)
    assert not model.classifier.training
    model.reset_classifier(7, zero=True)
    assert model.config.id2label is None
    assert not model(IMAGES.double()).logits.any()
    model.reset_classifier(0)
    assert model(IMAGES.double()).logits.shape == (2, 256)
    for name, value in model.state_dict().items():
        assert torch.equal(value, body[name]), name
    with pytest.raises(ValueError, match="num_labels"):
        model.reset_classifier(-1)
    with pytest.raises(ValueError, match="num_labels"):
        model.reset_classifier(3, id2label={0: "cat"})


def test_a_variant_or_overrides_make_a_model():
    with torch.device("meta"):
        assert BitModel("R50x3", output_stride=8).config.channels[-1] == 6144
        assert BitForImageClassification(num_labels=0).num_labels == 0
    with pytest.raises(ValueError, match="a BiT variant must be one of"):
        BitModel("R18x1")


def test_models_are_copied_and_pickled():
    model = BitForImageClassification(TINY).eval()
    expected = model(IMAGES).logits
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(IMAGES).logits, expected)


def test_grad_checkpointing_changes_no_gradient():
    model = BitForImageClassification(TINY)
    grads = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(IMAGES, labels=torch.tensor([0, 1])).loss.backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    for plain, recomputed in zip(*grads, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_export_keeps_the_outputs_type():
    model = BitForImageClassification(TINY).eval()
    program = torch.export.export(model, (IMAGES,))
    out = program.module()(IMAGES)
    assert type(out) is type(model(IMAGES))
    torch.testing.assert_close(out.logits, model(IMAGES).logits)
