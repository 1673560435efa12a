"""BitModel and BitForImageClassification: the whole network, pooled, and with a linear head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from bit_backbone.checkpoints.mixin import PretrainedMixin
from bit_backbone.config import BitConfig, warn_of_random_weights
from bit_backbone.network import BitNetwork
from bit_backbone.outputs import ImageClassifierOutput, ModelOutput, PooledOutput

__all__ = ["BitForImageClassification", "BitModel"]

_Output = TypeVar("_Output", bound=ModelOutput)


class _WholeNetwork(BitNetwork, PretrainedMixin):
    """Every stage, the final norm where the layer type has one, and the pooling."""

    def __init__(self, config: BitConfig | str | None = None, **overrides: Any) -> None:
        ask = f'load them with {type(self).__name__}.from_pretrained("{{name}}")'
        warn_of_random_weights(config, None, ask)
        config = BitConfig.resolve(config, **overrides)
        has_norm = config.layer_type == "preactivation"
        super().__init__(config, last=len(config.depths), norm=has_norm)

    def _pool(self, pixel_values: Tensor | None, all_states: bool | None) -> PooledOutput:
        if pixel_values is None:
            raise ValueError(
                f"{type(self).__name__} needs pixel_values, [N, {self.config.num_channels}, H, W], "
                "got None; BitImageProcessor makes them: model(**processor(image, "
                'return_tensors="pt"))'
            )
        if all_states is None:
            all_states = self.config.output_hidden_states
        names = self.config.stage_names
        states = self.raw_taps(pixel_values, list(names) if all_states else [names[-1]])
        last = states[names[-1]]
        if self.norm is not None:
            last = self.norm(last)
        pooled = F.adaptive_avg_pool2d(last, 1)
        return PooledOutput(last, pooled, tuple(states.values()) if all_states else None)

    def _as_asked(self, output: _Output, return_dict: bool | None) -> _Output | tuple[Any, ...]:
        if return_dict is None:
            return_dict = self.config.return_dict
        return output if return_dict else output.to_tuple()


class BitModel(_WholeNetwork):
    """BiT without a head: the drop-in for transformers' class of this name.

    Args:
        config: A BitConfig, the name of a variant ("R101x3"), or None for R50x1.
        **overrides: Arguments of BitConfig that differ from ``config``.

    Raises:
        ValueError: An argument of the configuration breaks a rule.
    """

    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> PooledOutput | tuple[Any, ...]:
        """Computes the features of a batch.

        Args:
            pixel_values: [N, num_channels, H, W], floating point.
            output_hidden_states: Whether to return the stem's and every stage's output too; None
                for what the configuration says.
            return_dict: False for a plain tuple of the values that are not None; None for what
                the configuration says.

        Returns:
            ``last_hidden_state`` [N, C, ~H / 32, ~W / 32] (at output_stride 32),
            ``pooler_output`` [N, C, 1, 1] and ``hidden_states``, N + 1 raw residual sums.

        Raises:
            ValueError: ``pixel_values`` has another rank, channel count or an integer dtype.
        """
        return self._as_asked(self._pool(pixel_values, output_hidden_states), return_dict)


class BitForImageClassification(_WholeNetwork):
    """BiT with the linear head of a classifier: the drop-in for transformers' class of this name.

    Args:
        config: A BitConfig, the name of a variant ("R101x3"), or None for R50x1. ``num_labels`` 0
            makes no head: the logits are the pooled features.
        **overrides: Arguments of BitConfig that differ from ``config``.

    Raises:
        ValueError: An argument of the configuration breaks a rule.
    """

    classifier: nn.Linear | nn.Identity

    def __init__(self, config: BitConfig | str | None = None, **overrides: Any) -> None:
        super().__init__(config, **overrides)
        self.reset_classifier(self.config.num_labels, self.config.id2label)

    @property
    def num_labels(self) -> int:
        """Number of classes, or of values of a regression."""
        return self.config.num_labels

    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ImageClassifierOutput | tuple[Any, ...]:
        """Classifies a batch.

        Args:
            pixel_values: [N, num_channels, H, W], floating point; needed, though transformers
                declares it optional.
            labels: What ``loss`` is computed against, see ``classification_loss``.
            output_hidden_states: Whether to return the stem's and every stage's output too; None
                for what the configuration says.
            return_dict: False for a plain tuple of the values that are not None; None for what
                the configuration says.

        Returns:
            ``loss`` if there are labels, ``logits`` [N, num_labels], and ``hidden_states`` if they
            were asked for.

        Raises:
            ValueError: There are no pixel_values, or of another rank, channel count or an integer
                dtype; or the labels do not fit the kind of problem.
        """
        pooled = self._pool(pixel_values, output_hidden_states)
        logits = self.classifier(pooled.pooler_output.flatten(1))
        loss = None
        if labels is not None:
            loss = classification_loss(logits, labels, self.config.problem_type)
        output = ImageClassifierOutput(loss, logits, pooled.hidden_states)
        return self._as_asked(output, return_dict)

    def reset_classifier(
        self, num_labels: int, id2label: Mapping[int, str] | None = None, *, zero: bool = False
    ) -> None:
        """Replaces the head by a fresh one, on the device and in the dtype of the network.

        Args:
            num_labels: Its number of outputs; 0 for no head.
            id2label: The name of each; None drops the old names.
            zero: Start at zero, as BiT's fine-tuning does, instead of at random.

        Raises:
            ValueError: ``num_labels`` is negative, or differs from the number of names.
        """
        self.config = self.config.replace(num_labels=num_labels, id2label=id2label)
        channels, stem = self.config.channels[-1], self.stem.conv.weight
        self.classifier = nn.Identity()
        if num_labels:
            self.classifier = nn.Linear(channels, num_labels, device=stem.device, dtype=stem.dtype)
            if zero:
                nn.init.zeros_(self.classifier.weight)
                nn.init.zeros_(self.classifier.bias)
        self.classifier.train(self.training)


def classification_loss(logits: Tensor, labels: Tensor, problem_type: str | None = None) -> Tensor:
    """Returns the mean loss of a batch.

    Args:
        logits: [N, K].
        labels: Depending on the kind of problem,  "single_label_classification": class indices [N],
            of which -100 is left out, or float probabilities [N, K], for cross entropy;
            "multi_label_classification": [N, K] of 0 and 1, for binary cross entropy; "regression":
            [N, K], or [N] where K is 1, for the mean squared error.
        problem_type: One of these. None means regression if K is 1, else single-label if there is
            one integer per example, else multi-label.

    Raises:
        ValueError: The shape or type of the labels does not fit the kind of problem.
    """
    if problem_type is None:
        problem_type = _infer_problem(logits, labels)
    if problem_type == "single_label_classification":
        return _cross_entropy(logits, labels)
    labels = labels.to(logits.dtype)
    if logits.shape[1] == 1 and labels.ndim == 1:
        labels = labels[:, None]
    if labels.shape != logits.shape:
        raise ValueError(
            f"labels of a {problem_type} problem must have the shape of the logits, "
            f"{list(logits.shape)}, got {list(labels.shape)}"
        )
    if problem_type == "regression":
        return F.mse_loss(logits, labels)
    return F.binary_cross_entropy_with_logits(logits, labels)


def _infer_problem(logits: Tensor, labels: Tensor) -> str:
    if logits.shape[1] == 1:
        return "regression"
    single = _are_indices(logits, labels)
    return "single_label_classification" if single else "multi_label_classification"


def _are_indices(logits: Tensor, labels: Tensor) -> bool:
    """Whether the labels are one integer for each example, [N] or [N, 1]."""
    return labels.numel() == len(logits) and not labels.is_floating_point()


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    if _are_indices(logits, labels):
        return F.cross_entropy(logits, labels.reshape(-1).long())
    if labels.shape == logits.shape and labels.is_floating_point():
        return F.cross_entropy(logits, labels)
    raise ValueError(
        f"labels of a single_label_classification problem must be integers [{len(logits)}] or "
        f"probabilities {list(logits.shape)}, got {labels.dtype} {list(labels.shape)}"
    )
