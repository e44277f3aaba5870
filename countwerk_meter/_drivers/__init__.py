"""The drivers: the only code that awaits, sleeps and sends."""
