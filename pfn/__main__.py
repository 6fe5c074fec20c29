"""`python -m pfn` is the `pfn` command."""

import sys

from pfn.cli import main

sys.exit(main())
