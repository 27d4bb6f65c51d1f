"""What one drill's client leaves behind: everything that the report is made of, as JSON."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from dataclasses import asdict
from typing import Any

from spotcache_drill.client import Accounts, Loss
from spotcache_drill.observer import Seen


def record(host: str, accounts: Accounts, seen: Seen, lost: Loss | None, since: float, ended: str) -> dict[str, Any]:
    """The record.

    Args:
        host: instance id of the host under drill.
        accounts: of the client.
        seen: of the observer.
        lost: what was not there any more; None when it could not be read back.
        since: Unix time in seconds from which an outage counts.
        ended: why the client stopped, for a person; empty when all went its way.
    """
    old = seen.instances.get(host)
    others = sorted(
        (one for one in seen.instances.values() if one.id != host), key=lambda one: min(one.states.values())
    )
    final = seen.final
    return {
        "host": host,
        "keys_written": accounts.written,
        "keys_acknowledged": len(accounts.acknowledged),
        "first_write_ever": min(accounts.acknowledged.values(), default=None),
        "refused": accounts.refused,
        "refused_at": accounts.refused_at,
        "last_write_before": accounts.last_before(accounts.refused_at) if accounts.refused_at is not None else None,
        "outage_s": accounts.outage(since),
        "services": [asdict(one) for one in accounts.services],
        "host_gone": old.gone_at if old is not None else None,
        "hosts": [{**asdict(one), "gone_at": one.gone_at} for one in ([old] if old else []) + others],
        "addresses": [{"address": address, "at": at} for address, at in seen.addresses],
        "final": {"record": final[0], "at": final[1]} if final else None,
        "backups": [{"id": name, "at": at} for name, at in sorted(seen.backups.items())],
        "missing": [list(one) for one in lost.missing] if lost is not None else None,
        "altered": list(lost.altered) if lost is not None else None,
        "trouble": seen.trouble,
        "last_error": accounts.error,
        "ended": ended,
    }
