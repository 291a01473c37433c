"""A dense checkpoint and a text that the commands are run with, made once."""

from pathlib import Path

import pytest

from tests import tiny


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("models") / "dense")


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.text_file(tmp_path_factory.mktemp("text") / "stories.txt")


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smaller one, for what is run many times."""
    return tiny.checkpoint(tmp_path_factory.mktemp("models") / "narrow", hidden=32, width=48)
