"""The order of examples, their augmentation, transforms and evaluation."""

import random

import numpy as np
import pytest
import torch
from photographs import photograph
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bit_backbone.finetune import accuracy, transforms
from bit_backbone.finetune.hyperrule import Resolution
from bit_backbone.outputs import ImageClassifierOutput
from bit_backbone.training import stream
from bit_backbone.training.drawing import CollateDrawn
from bit_backbone.utils.processes import ProcessGroup

ALONE = ProcessGroup(0, 1, torch.device("cpu"))


def test_the_stream_is_one_permutation_after_another():
    examples = stream.ExampleStream(7, seed=3)
    indices = [examples.index(position) for position in range(21)]
    passes = [indices[i : i + 7] for i in (0, 7, 14)]
    assert all(sorted(one) == list(range(7)) for one in passes)
    assert passes[0] != passes[1] != passes[2]
    assert [stream.ExampleStream(7, 3).index(p) for p in (20, 3, 9)] == [
        indices[20], indices[3], indices[9],
    ]  # fmt: skip
    assert indices != [stream.ExampleStream(7, 4).index(p) for p in range(21)]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_processes_share_every_batch(world_size):
    plans = [
        stream.BatchPlan(stream.ExampleStream(10, 0), 6, range(2, 5), rank, world_size)
        for rank in range(world_size)
    ]
    assert [len(plan) for plan in plans] == [3] * world_size
    shares = list(zip(*plans, strict=True))
    positions = [[key[0] for part in parts for key in part] for parts in shares]
    assert positions == [list(range(6 * step, 6 * step + 6)) for step in (2, 3, 4)]
    assert all(len(part) == 6 // world_size for parts in shares for part in parts)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stream.ExampleStream(0, 0), "at least one example, got 0"),
        (lambda: stream.BatchPlan(stream.ExampleStream(9, 0), 7, range(1), 0, 2),
         "multiple of the number of processes, got 7 for 2"),
        (lambda: transforms.typical_size([]), "at least one image, got none"),
        (lambda: accuracy.evaluate(nn.Identity(), [], ALONE), "at least one example, got none"),
    ],
)  # fmt: skip
def test_what_is_rejected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


class Noisy:
    """Draws from every generator that augmentation may use."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return torch.tensor([torch.rand(()), random.random(), np.random.rand(), index])


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentation_depends_on_the_position_alone(workers):
    def draw(seed, steps):
        plan = stream.BatchPlan(stream.ExampleStream(5, 0), 4, steps)
        dataset = stream.SeededDataset(Noisy(), seed, plan)
        options = {"num_workers": workers, "collate_fn": CollateDrawn(None)}
        loader = DataLoader(dataset, batch_sampler=plan, **options)
        return torch.cat([batch for batch, _, _ in loader])

    whole = draw(1, range(3))
    assert torch.equal(whole[8:], draw(1, range(2, 3)))
    assert len(set(whole[:, 0].tolist())) == 12
    assert not torch.equal(whole, draw(2, range(3)))


def test_the_callers_generators_are_left_alone():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(())
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    plan = stream.BatchPlan(stream.ExampleStream(5, 0), 4, range(3))
    _ = stream.SeededDataset(Noisy(), 9, plan)[(7, 3)]
    assert (random.random(), np.random.rand(), torch.rand(())) == expected


def test_training_images_are_squashed_cropped_and_flipped():
    ramp = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (50, 1, 3)))
    transform = transforms.train_transform(Resolution(40, 32))
    views = []
    for position in range(60):
        with stream.seeded(position):
            views.append(transform(ramp))
    assert all(view.shape == (3, 32, 32) and view.dtype == torch.float32 for view in views)
    assert all(view.min() >= -1 and view.max() <= 1 for view in views)
    rising = [bool(view[0, 0, 0] < view[0, 0, -1]) for view in views]
    assert 10 < sum(rising) < 50
    assert len({view[0].min().item() for view in views}) > 4  # crops differ
    unflipped = transforms.train_transform(Resolution(40, 32), flip=False)
    assert all(view[0, 0, 0] < view[0, 0, -1] for view in (unflipped(ramp) for _ in range(20)))
    whole = transforms.train_transform(Resolution(32, 32), flip=False)(ramp)
    assert torch.equal(whole, transforms.eval_transform(Resolution(40, 32))(ramp))


def test_files_are_read_as_rgb(tmp_path):
    photograph("logo").save(tmp_path / "logo.png")
    image = transforms.load_rgb(tmp_path / "logo.png")
    assert (image.mode, image.getpixel((0, 0))) == ("RGB", (255, 255, 255))
    Image.new("I;16", (5, 5), 4095).save(tmp_path / "deep.png")
    Image.new("F", (5, 5), 1.0).save(tmp_path / "float.tiff")
    assert transforms.load_rgb(tmp_path / "deep.png", 12).getpixel((0, 0)) == (255, 255, 255)
    assert transforms.load_rgb(tmp_path / "float.tiff").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cut.png", "cannot read the image .*cut.png: image file is truncated"),
        ("text.png", "cannot identify image file .*text.png"),
        ("whole.png", "whole.png is damaged or too large: Image size .* exceeds limit"),
        ("missing.png", "No such file or directory: .*missing.png"),
    ],
)
def test_a_file_that_is_no_image_is_named_once(name, message, tmp_path, monkeypatch):
    photograph("logo").save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:2000])
    (tmp_path / "text.png").write_text("no image")
    if name == "whole.png":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match=message) as raised:
        transforms.load_rgb(tmp_path / name)
    assert str(raised.value).count(name) == 1


def test_typical_size(tmp_path):
    paths = []
    for i, size in enumerate([(10, 20), (30, 40), (50, 60)]):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.new("L", size).save(paths[-1])
    assert transforms.typical_size(paths) == (40, 30)
    assert transforms.typical_size(paths * 400) == (40, 30)  # a sample


class Fixed(nn.Module):
    """Reads its logits off the images."""

    def forward(self, images):
        assert not self.training
        return ImageClassifierOutput(None, images.flatten(1))


def test_evaluation():
    logits = torch.arange(12.0).repeat(9, 1)  # scores rise with the class
    logits[8] = -logits[8]
    labels = torch.tensor([11, 11, 11, 10, 7, 6, 0, 11, 0])
    model = Fixed().train()
    seen = []
    metrics = accuracy.evaluate(
        model, TensorDataset(logits, labels), ALONE, batch_size=4, advance=seen.append
    )
    assert model.training
    assert seen == [4, 4, 1]
    assert (metrics.top1, metrics.top5, metrics.num_examples) == (5 / 9, 7 / 9, 9)
    expected = nn.functional.cross_entropy(logits, labels).item()
    assert metrics.loss == pytest.approx(expected, rel=1e-6)
    few = accuracy.evaluate(Fixed(), TensorDataset(torch.eye(3), torch.tensor([0, 1, 0])), ALONE)
    assert (few.top1, few.top5) == (2 / 3, 1.0)
