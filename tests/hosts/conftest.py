"""What tests of several hosts share."""

import pytest

from bit_backbone.kernels import native


@pytest.fixture
def pytorch_kernels(monkeypatch) -> None:
    """Lets eager code compute with PyTorch's operators, as scripts do, to compare the two exactly.

    The native kernels differ from them in the last digits, and untrained detectors have scores so
    close that this changes the order of their boxes.
    """
    monkeypatch.setattr(native, "library", lambda: None)
