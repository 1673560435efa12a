"""The pure parts of fine-tuning: the rule, few-shot selection, mixup, batch splitting."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bit_backbone.finetune import fewshot, hyperrule, mixup, splitting

# The published rule as (first step, last step, rate); a warm-up step's rate is 0.003 * step / W.
SCHEDULES = {
    19_999: (100, [(100, 200, 3e-3), (201, 300, 3e-4), (301, 400, 3e-5), (401, 499, 3e-6)]),
    20_000: (500, [(500, 3_000, 3e-3), (3_001, 6_000, 3e-4), (6_001, 9_000, 3e-5),
                   (9_001, 9_999, 3e-6)]),
    499_999: (500, [(500, 3_000, 3e-3), (3_001, 6_000, 3e-4), (6_001, 9_000, 3e-5),
                    (9_001, 9_999, 3e-6)]),
    500_000: (500, [(500, 6_000, 3e-3), (6_001, 12_000, 3e-4), (12_001, 18_000, 3e-5),
                    (18_001, 19_999, 3e-6)]),
}  # fmt: skip
TOTALS = {19_999: 500, 20_000: 10_000, 499_999: 10_000, 500_000: 20_000}
RAMPS = {
    100: {0: 0.0, 1: 3e-5, 33: 9.9e-4, 50: 1.5e-3, 99: 2.97e-3},
    500: {0: 0.0, 1: 6e-6, 250: 1.5e-3, 499: 2.994e-3},
}


@pytest.mark.parametrize("num_examples", SCHEDULES)
def test_learning_rate_at_every_step(num_examples):
    warmup, levels = SCHEDULES[num_examples]
    schedule = hyperrule.schedule(num_examples)
    assert schedule.total == TOTALS[num_examples] == levels[-1][1] + 1
    rates = [schedule.learning_rate(step) for step in range(schedule.total)]
    for first, last, rate in levels:
        assert rates[first : last + 1] == pytest.approx([rate] * (last - first + 1), rel=1e-12)
    assert {step: rates[step] for step in RAMPS[warmup]} == pytest.approx(RAMPS[warmup])
    assert np.diff(rates[: warmup + 1]) == pytest.approx([0.003 / warmup] * warmup)


@pytest.mark.parametrize("step", [-1, 500])
def test_steps_outside_the_schedule_are_rejected(step):
    with pytest.raises(ValueError, match=rf"steps of this schedule are 0 to 499, got {step}"):
        hyperrule.schedule(1).learning_rate(step)


@pytest.mark.parametrize(
    ("num_examples", "alpha"), [(1, 0.0), (19_999, 0.0), (20_000, 0.1), (500_000, 0.1)]
)
def test_mixup_by_size(num_examples, alpha):
    assert hyperrule.mixup_alpha(num_examples) == alpha


@pytest.mark.parametrize(
    ("size", "expected"),
    [((32, 32), (160, 128)), ((95, 97), (160, 128)), ((96, 96), (512, 480)),
     ((1, 9215), (160, 128)), ((1, 9216), (512, 480)), ((480, 640), (512, 480))],
)  # fmt: skip
def test_resolution_by_area(size, expected):
    assert hyperrule.resolution(*size) == hyperrule.Resolution(*expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hyperrule.resolution(0, 5), "at least one pixel, got 0x5"),
        (lambda: hyperrule.schedule(0), "at least one example, got 0"),
        (lambda: hyperrule.mixup_alpha(-3), "at least one example, got -3"),
        (lambda: hyperrule.schedule(5, base=0.0), "base learning rate must be positive, got 0.0"),
        (lambda: hyperrule.Schedule(5, (9, 7), 10), r"decays in order.*got .*\(9, 7\), total 10"),
        (lambda: hyperrule.Schedule(0, (), 0), "at least one step"),
        (lambda: hyperrule.schedule(5).scaled(0), "at least one step"),
    ],
)
def test_rules_that_are_rejected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_scaled_schedule_keeps_its_shape():
    tenth = hyperrule.schedule(5, base=0.1).scaled(50)
    assert tenth == hyperrule.Schedule(10, (20, 30, 40), 50, 0.1)
    assert hyperrule.schedule(5).scaled(1) == hyperrule.Schedule(0, (0, 0, 0), 1)
    assert hyperrule.schedule(5).scaled(1).learning_rate(0) == 0.003


LABELS = np.random.default_rng(0).integers(0, 4, 200)


@pytest.mark.parametrize("count", [1, 5, 20])
def test_few_shot_selection(count):
    chosen = fewshot.select_few_shot(LABELS, count, seed=3)
    assert chosen == sorted(set(chosen))
    assert np.bincount(LABELS[chosen]).tolist() == [count] * 4
    assert chosen == fewshot.select_few_shot(LABELS.tolist(), count, seed=3)
    assert chosen != fewshot.select_few_shot(LABELS, count, seed=4)
    assert set(chosen) <= set(fewshot.select_few_shot(LABELS, count + 10, seed=3))


def test_few_shot_choice_in_a_class_ignores_the_other_classes():
    together = [i for i in fewshot.select_few_shot(LABELS, 5) if LABELS[i] == 1]
    others_moved = np.where(LABELS == 1, 1, 0)
    apart = [i for i in fewshot.select_few_shot(others_moved, 5) if LABELS[i] == 1]
    assert together == apart


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0, 0, 1], {"examples_per_class": 2},
         "every class needs 2 examples, but class 1 has 1; draw fewer"),
        ([0, 2], {"examples_per_class": 1}, "class 1 has 0; draw fewer per class or leave"),
        ([0], {"examples_per_class": 1, "num_classes": 99},
         "class 1 has 0, .*10 has 0 and 88 more"),
        ([0, 5], {"examples_per_class": 1, "num_classes": 5}, r"lie in 0 .. 4, got 0 .. 5"),
        ([-1, 0], {"examples_per_class": 1}, r"lie in 0 .. 0, got -1 .. 0"),
        ([0], {"examples_per_class": 0}, "at least 1, got 0"),
        ([], {"examples_per_class": 1}, r"one integer per example, got float64 of shape \(0,\)"),
        ([0.5], {"examples_per_class": 1}, "one integer per example, got float64"),
    ],
)  # fmt: skip
def test_few_shot_selections_that_are_rejected(labels, options, message):
    with pytest.raises(ValueError, match=message):
        fewshot.select_few_shot(labels, **options)


def test_dataset_labels():
    class WithTargets(list):
        targets = torch.tensor([3, 1, 2])

        def __getitem__(self, index):
            raise AssertionError("nothing needs to be loaded")

    labels = fewshot.dataset_labels(WithTargets())
    assert labels == [3, 1, 2]
    assert all(type(label) is int for label in labels)
    nested = torch.utils.data.Subset(torch.utils.data.Subset(WithTargets(), [2, 0]), [1])
    assert fewshot.dataset_labels(nested) == [3]
    plain = torch.utils.data.TensorDataset(torch.zeros(2, 3), torch.tensor([7, 8]))
    assert fewshot.dataset_labels(plain) == [7, 8]


def test_mixup_mixes_neighbours():
    values = torch.tensor([[0.0], [10.0], [100.0], [300.0]])
    assert mixup.mix_neighbours(values, 0.75).flatten().tolist() == [2.5, 7.5, 150.0, 250.0]
    assert mixup.mix_neighbours(values, 1.0) is values
    halves = [mixup.mix_neighbours(half, 0.75) for half in values.split(2)]
    assert torch.equal(torch.cat(halves), mixup.mix_neighbours(values, 0.75))


def test_mixed_labels_give_the_published_loss():
    torch.manual_seed(0)
    logits, labels, weight = torch.randn(6, 5), torch.tensor([0, 1, 2, 2, 4, 3]), 0.3
    partners = labels[[1, 0, 3, 2, 5, 4]]
    expected = weight * F.cross_entropy(logits, labels)
    expected += (1 - weight) * F.cross_entropy(logits, partners)
    mixed = mixup.mix_labels(labels, 5, weight)
    torch.testing.assert_close(F.cross_entropy(logits, mixed), expected)


def test_mixup_weights():
    rng = np.random.default_rng(0)
    assert mixup.draw_weight(0.0, rng) == 1.0
    drawn = np.array([mixup.draw_weight(0.1, rng) for _ in range(4000)])
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2a + 1))
    assert drawn.mean() == pytest.approx(0.5, abs=0.03)
    assert drawn.var() == pytest.approx(1 / 4.8, abs=0.01)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mixup.draw_weight(-0.1, np.random.default_rng()), "at least 0, got -0.1"),
        (lambda: mixup.mix_neighbours(torch.zeros(3, 2), 0.5), "even length, got 3"),
        (
            lambda: splitting.part_lengths(4, 0),
            "batch of 4 splits into 1 to as many parts, got 0",
        ),
        (lambda: splitting.part_lengths(4, 5), "got 5"),
    ],
)
def test_batches_that_are_rejected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("length", "parts", "expected"), [
    (8, 1, [8]), (8, 4, [2, 2, 2, 2]), (7, 3, [3, 2, 2]), (3, 3, [1, 1, 1]),
])  # fmt: skip
def test_part_lengths(length, parts, expected):
    assert splitting.part_lengths(length, parts) == expected


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_gradients_of_a_split_batch_equal_the_whole(parts):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)
    ).double()
    images, labels = torch.randn(7, 3, 8, 8, dtype=torch.float64), torch.arange(7) % 5
    widest = 0

    def loss(images, labels):
        nonlocal widest
        widest = max(widest, len(images))
        return F.cross_entropy(model(images), labels)

    whole = F.cross_entropy(model(images), labels)
    expected = torch.autograd.grad(whole, model.parameters())
    total = splitting.backward_in_parts(loss, (images, labels), parts)
    assert total.item() == pytest.approx(whole.item(), rel=1e-14)
    assert widest == -(-7 // parts)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-14)


def test_only_the_last_part_synchronizes():
    model, events = nn.Linear(2, 1), []

    class NoSync:
        def __enter__(self):
            events.append("enter")

        def __exit__(self, *_):
            events.append("exit")

    def backward(share):
        events.append("backward")
        (share * 8).backward()

    splitting.backward_in_parts(
        lambda x: model(x).mean(), (torch.ones(3, 2),), 3, backward=backward, no_sync=NoSync
    )
    assert events == ["enter", "backward", "exit"] * 2 + ["backward"]
    torch.testing.assert_close(model.weight.grad, torch.full((1, 2), 8.0))
