"""A small fine-tuning run in a process of its own, to be killed, resumed and distributed.

Usage: python finetune_run.py FOLDER SETTINGS_AS_JSON [SECONDS_PER_EXAMPLE]
"""

import json
import sys
import time

import torch

from bit_backbone import BitConfig, BitForImageClassification
from bit_backbone.finetune import FineTuneSettings, finetune

CONFIG = BitConfig(
    embedding_size=8, hidden_sizes=(16, 16, 16, 32), depths=(1, 1, 1, 1), num_groups=4,
    num_labels=4,
)  # fmt: skip
SETTINGS = {"steps": 12, "batch_size": 8, "base_lr": 0.05, "save_every": 3, "mixup_alpha": 0.3}


class Examples:
    """Images whose mean colour tells their class, under noise drawn again at every look."""

    def __init__(self, count: int = 21, pause: float = 0.0) -> None:
        self.count, self.pause = count, pause

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        time.sleep(self.pause)
        label = index % 4
        colour = torch.tensor([label & 1, label >> 1, 0.5]).mul(2).sub(1)
        image = colour[:, None, None] + 0.3 * torch.randn(3, 20, 20)
        return image.to(torch.get_default_dtype()), label


def make_model(seed: int = 5, zero: bool = False, **overrides: object) -> BitForImageClassification:
    torch.manual_seed(seed)
    model = BitForImageClassification(CONFIG, **overrides)
    if zero:
        model.reset_classifier(CONFIG.num_labels, zero=True)
    return model


def main() -> None:
    folder, settings = sys.argv[1], SETTINGS | json.loads(sys.argv[2])
    pause = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    torch.set_default_dtype(torch.float64)  # in which rounding does not grow to be seen
    model = make_model(drop_path_rate=settings.pop("drop_path_rate", 0.0))
    model.set_activation_recompute(settings.pop("activation_recompute", False))
    result = finetune(
        model,
        Examples(pause=pause),
        folder,
        FineTuneSettings(**settings),
        device="cpu",
        show_progress=False,
    )
    sys.exit(128 + result.signal if result.signal else 0)


if __name__ == "__main__":
    main()
