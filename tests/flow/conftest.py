"""The flows' world as fixtures."""

import pytest

from .drivers import Cut
from .model_ledger import Say
from .world import World


@pytest.fixture
def world():
    """A fresh world: one account with 100 credits."""
    return World()


@pytest.fixture
def make_world():
    """Make worlds where one test needs several."""
    return World


@pytest.fixture
def say():
    """What can be scripted."""
    return Say


@pytest.fixture
def cut_error():
    """The cancellation of a caller."""
    return Cut
