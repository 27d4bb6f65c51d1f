"""`python -m spotcache_drill check|run|report`, with its settings as JSON on standard input."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
import sys

try:
    from spotcache_drill.cli import main
except ModuleNotFoundError as missing:
    sys.exit(f"Python's package {missing.name} is missing: {sys.executable} -m pip install 'redis>=8.1'")

sys.exit(main(sys.argv[1:]))
