"""Files of the Hugging Face Hub, without a network."""

import logging

import pytest

from bit_backbone.utils.hub import HubError, NotCachedError, _quiet_retries, hub_file


@pytest.fixture
def unreachable(monkeypatch, tmp_path):
    """A Hub whose address nobody serves, and an empty cache."""
    import huggingface_hub
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    def fail(*_, **__):
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    return constants


def test_retries_are_not_shown_and_the_error_says_why(unreachable, caplog):
    with pytest.raises(HubError, match=r"a\.bin of a/b is not on this .* the Hub cannot be"):
        hub_file("a/b", "a.bin")
    assert caplog.text == ""
    logging.getLogger("huggingface_hub.utils._http").warning("later")
    assert "later" in caplog.text


def test_offline(unreachable, monkeypatch):
    monkeypatch.setattr(unreachable, "HF_HUB_OFFLINE", True)
    with pytest.raises(NotCachedError, match="HF_HUB_OFFLINE is set"):
        hub_file("a/b", "a.bin")


def test_downloads_at_the_same_time_leave_the_logger_as_it_was():
    logger = logging.getLogger("huggingface_hub.utils._http")
    before = logger.level, list(logger.filters)
    first, second = _quiet_retries(), _quiet_retries()
    for step in (first.__enter__, second.__enter__):
        step()
    for step in (first.__exit__, second.__exit__):  # in another order than they were nested
        step(None, None, None)
    assert (logger.level, logger.filters) == before
