"""`python -m keyhaus` is `keyhaus`."""

from keyhaus.cli.main import main

main()
