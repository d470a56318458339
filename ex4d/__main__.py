"""`python -m ex4d`."""

import sys

from .cli import main

sys.exit(main())
