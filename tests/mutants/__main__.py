"""Owns `make mutants`: what it does is in the modules beside this one."""

import sys

from tests.mutants.cli import main
from tests.mutants.project import PROJECT

if __name__ == "__main__":
    sys.exit(main(PROJECT))
