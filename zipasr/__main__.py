"""`python -m zipasr` is `zipasr`."""

import sys

from zipasr.cli import main

sys.exit(main())
