"""What the keeper says to people: in the journal, and in `status` afterwards."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Callable

from spotcache_keeper.context import Context
from spotcache_keeper.errors import KeeperError
from spotcache_keeper.system.state import WATCH, recall, save_state
from spotcache_keeper.system.times import to_text

_LINES = 30


class Lines:
    """What a person should know: each line goes to the journal, and the last ones to `status`."""

    def __init__(self, ctx: Context, say: Callable[[str], None], name: str = WATCH) -> None:
        self._ctx = ctx
        self._log = say
        self._name = name
        self._lines: list[dict[str, str]] = list(recall(ctx.config.state_directory, name).get("lines", []))

    def __call__(self, line: str) -> None:
        """Say one line."""
        self._log(line)
        self._lines = [*self._lines, {"at": to_text(self._ctx.now()), "line": line}][-_LINES:]
        try:
            save_state(self._ctx.config.state_directory, self._name, lines=self._lines)
        except KeeperError as error:
            self._log(str(error))
