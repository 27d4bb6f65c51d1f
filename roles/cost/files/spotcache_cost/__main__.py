"""`python roles/cost/files/spotcache_cost`, which ./spotcache cost runs."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
import sys
from pathlib import Path

if not __package__:
    # Run as a folder: the package is found beside it, and its parts never in the place of others.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from spotcache_cost.cli import main

sys.exit(main(sys.argv[1:]))
