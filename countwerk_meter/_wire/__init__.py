"""The wire: requests built, answers read and classified. Pure: no I/O, no clock."""
