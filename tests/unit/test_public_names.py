"""What `countwerk_meter` gives by name: all that it says, loaded when it is asked for."""

import importlib
import subprocess
import sys

import pytest

import countwerk_meter


def test_every_public_name_is_there_and_in_its_home():
    """The three lists of them agree; whoever looks around sees them."""
    assert set(countwerk_meter.__all__) == set(countwerk_meter._HOMES)
    for name, module in countwerk_meter._HOMES.items():
        assert getattr(countwerk_meter, name) is getattr(importlib.import_module(f"countwerk_meter.{module}"), name)
    assert {*countwerk_meter.__all__, "errors", "__version__"} <= set(dir(countwerk_meter))


def test_a_name_that_is_not_there():
    """Is missing, as in any module."""
    with pytest.raises(AttributeError, match="no attribute 'Metre'"):
        _ = countwerk_meter.Metre


@pytest.mark.parametrize(
    ("code", "loaded"),
    [
        ("import countwerk_meter", False),
        ("import countwerk_meter.testing.plugin", False),
        ("from countwerk_meter import InsufficientCreditsError", False),
        ("import countwerk_meter; countwerk_meter.errors.ApiError", False),
        ("from countwerk_meter import Meter", True),
        ("from countwerk_meter import *; Meter", True),
    ],
)
def test_what_is_not_asked_for_is_not_loaded(code, loaded):
    """A test run that has the package installed pays nothing for it."""
    asked = f"{code}; import sys; print('countwerk_meter.meter' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout
    assert f"{loaded}\n" == told
