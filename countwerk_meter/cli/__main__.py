"""`python -m countwerk_meter.cli`."""

from countwerk_meter.cli import main

main()
