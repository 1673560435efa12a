"""Making the outputs of untrained detectors comparable."""

import torch
from torch import nn


def spread_scores(model, images):
    """Bounds what the heads say of random features, so that no two scores saturate to the same."""
    for head, scale in _heads(model):
        outputs = []
        hook = head.register_forward_hook(lambda _, __, y, seen=outputs: seen.append(y.flatten()))
        with torch.no_grad():
            model(images)
            head.weight.mul_(scale / torch.cat(outputs).abs().max())
        hook.remove()
        nn.init.zeros_(head.bias)


def _heads(model):
    if hasattr(model, "rpn"):
        box = model.roi_heads.box_predictor
        return [(model.rpn.head.cls_logits, 4.0), (model.rpn.head.bbox_pred, 0.5),
                (box.cls_score, 4.0), (box.bbox_pred, 2.0)]  # fmt: skip
    head = model.head
    return [(head.classification_head.cls_logits, 4.0), (head.regression_head.bbox_reg, 1.0)]
