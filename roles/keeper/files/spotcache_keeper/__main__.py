"""`python3 -m spotcache_keeper`, for work on the program itself; hosts run the packed file."""

import sys

from spotcache_keeper.cli import main

sys.exit(main())
