"""`python -m jaxdistill`."""

import sys

from jaxdistill.cli.main import main

sys.exit(main())
