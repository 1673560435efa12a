"""Evaluate a sharded network, change its shards in place, and evaluate again; under torchrun."""

import torch
from finetune_run import make_model

from bit_backbone.training.parallel import process_mesh, shard
from bit_backbone.utils.processes import process_group


@torch.no_grad()
def main() -> None:
    with process_group("cpu") as group:
        plain, sharded = make_model().eval(), make_model().eval()
        shard(sharded, process_mesh(group.device))
        images = torch.rand(2, 3, 20, 20)
        for _ in range(3):
            torch.testing.assert_close(sharded(images).logits, plain(images).logits)
            sharded.reshard()  # the outermost module stays gathered after its forward
            for own, other in zip(sharded.parameters(), plain.parameters(), strict=True):
                own.to_local().square_().add_(0.1)  # as torch.distributed.checkpoint loads
                other.square_().add_(0.1)
    print("never stale")


if __name__ == "__main__":
    main()
