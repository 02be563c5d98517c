"""`python -m adabldm`."""

import sys

from adabldm.app.cli import main

sys.exit(main())
