"""`python -m copd`: the command line, also where no script was installed."""

from copd.cli import main

main()
