"""
Measuring: what a model call used, in pools that never overlap.

The rule kept here is that unknown is not zero: what cannot be read in full is `None`, and the meter decides what to
charge for it.
"""

from countwerk_meter.usage._pools import Usage

__all__ = ["Usage"]
