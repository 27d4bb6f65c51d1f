"""`python -m spotcache_drill check|run|report`, with its settings as JSON on standard input."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
import sys

from spotcache_drill.cli import main

sys.exit(main(sys.argv[1:]))
