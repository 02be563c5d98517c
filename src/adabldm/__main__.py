"""`python -m adabldm`."""

import sys

from adabldm.cli import main

sys.exit(main())
