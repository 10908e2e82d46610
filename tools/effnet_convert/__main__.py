"""`python -m effnet.convert`: tools/convert.py, where the Python package is installed."""

import sys

from .command_line import main

sys.exit(main())
