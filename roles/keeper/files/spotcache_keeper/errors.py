"""What can go wrong, by what a caller does about it: each class has its own exit code.

The text of an error is the whole message a person gets: what happened, to which value, and what to do.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations


class KeeperError(Exception):
    """The work failed (exit code 1)."""

    exit_code = 1


class ConfigError(KeeperError):
    """The command line or the configuration is wrong (exit code 2)."""

    exit_code = 2


class RefusedError(KeeperError):
    """Going on would overwrite newer data (exit code 3)."""

    exit_code = 3


class NotServingError(RefusedError):
    """What is here is not the environment's data: another host serves, or this one has not begun to (exit code 5)."""

    exit_code = 5


class NoSourceError(KeeperError):
    """There is nothing to restore from (exit code 4)."""

    exit_code = 4


class NoUsableCopyError(KeeperError):
    """There are backups to restore from, and none of them can be used (exit code 1)."""


class DamagedError(KeeperError):
    """One copy of a backup cannot be used; another copy or an older backup may."""


class UnreadableError(KeeperError):
    """Data is whole and of a version that this host's server cannot read. An older backup would be no better."""


class InterruptedRunError(BaseException):
    """The run was told to stop by a signal.

    Not an `Exception`, so that code which turns failures into warnings cannot swallow it.
    """
