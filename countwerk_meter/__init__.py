"""Reserve, call, confirm."""
