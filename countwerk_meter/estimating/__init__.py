"""How much to hold for a call: its input counted, its output bounded by what such calls put out before. Pure."""

from countwerk_meter.estimating.counting import approximate_tokens, count_tokens
from countwerk_meter.estimating.history import COLD_START_TOKENS, Histories, History

__all__ = ["COLD_START_TOKENS", "Histories", "History", "approximate_tokens", "count_tokens"]
