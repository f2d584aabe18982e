"""`python -m afm_cli`: the command `afm`, by the Python that has it."""

import sys

from . import main

sys.exit(main())
