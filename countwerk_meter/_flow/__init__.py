"""
The sans-IO core: reserve and settle as generators that yield commands and are sent replies.

No I/O, no clock, no randomness in here: a sync driver, an async driver and a simulator run the same flows.
"""
