"""`python3 -m spotcache_keeper`, for work on the program itself; hosts run the packed file."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
import sys

from spotcache_keeper.cli import main

sys.exit(main())
