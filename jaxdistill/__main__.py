"""`python -m jaxdistill`."""

import sys

from jaxdistill.command_line import main

sys.exit(main())
