"""`python -m tests.torture --minutes M --seed S [--kafka embedded|apache] [--keep-logs DIR]`."""

from __future__ import annotations

import sys

from tests.torture.chaos import WEIGHTS
from tests.torture.options import parse
from tests.torture.run import Run

if __name__ == "__main__":
    sys.exit(Run(parse(sys.argv[1:], list(WEIGHTS)))())
