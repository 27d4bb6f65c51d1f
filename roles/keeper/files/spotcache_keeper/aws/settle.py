"""EC2's eventual consistency: not believing at once that what was made a moment ago is not there.

"The result of an API command you run that affects your Amazon EC2 resources might not be immediately visible to all
subsequent commands" (EC2 developer guide, "Ensuring eventual consistency"), and one answer may miss what the one before
it has shown. Whatever has just been made is asked about, and used, by way of this.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from spotcache_keeper.aws.clients import AwsError

_T = TypeVar("_T")

# How long what is there may be unknown, in seconds. AWS names no bound; it is far above what is seen.
SETTLES_AFTER = 60.0
_PAUSE, _LONGEST_PAUSE = 0.25, 4.0


def not_found(error: AwsError) -> bool:
    """Whether EC2 says that there is no such object; it says the same of one that it does not know yet."""
    return error.code.endswith(".NotFound")


def known(ask: Callable[[], _T], sleep: Callable[[float], None] = time.sleep, seconds: float = SETTLES_AFTER) -> _T:
    """The answer of a call that names what was made, or shown, a moment ago.

    Args:
        ask: the call, which raises AwsError.
        sleep: waits that many seconds.
        seconds: for how long `NotFound` is not believed.

    Raises:
        AwsError: AWS refuses, or still finds nothing when that time is over.
    """
    for pause in _pauses(seconds):
        try:
            return ask()
        except AwsError as error:
            if not not_found(error):
                raise
        sleep(pause)
    return ask()


def found(look: Callable[[], _T], sleep: Callable[[float], None] = time.sleep, seconds: float = SETTLES_AFTER) -> _T:
    """What a look finds that must be there; its empty answer only when the time is over."""
    for pause in _pauses(seconds):
        if seen := look():
            return seen
        sleep(pause)
    return look()


def _pauses(seconds: float) -> Iterator[float]:
    """Ever longer pauses that come to that many seconds."""
    waited, pause = 0.0, _PAUSE
    while waited < seconds:
        yield pause
        waited, pause = waited + pause, min(2 * pause, _LONGEST_PAUSE)
