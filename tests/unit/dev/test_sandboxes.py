# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read from a run of ansible-playbook."""

from __future__ import annotations

import pytest

from dev.sandboxes import Play, Progress
from dev.work import Failed

RECAP = """
TASK [redis : Something] *****
changed: [i-0abc]

PLAY RECAP *********************************************************************
i-0abc                     : ok=41   changed=3    unreachable=0    failed=0    skipped=7    rescued=0    ignored=0
localhost                  : ok=30   changed=2    unreachable=0    failed=0    skipped=2    rescued=0    ignored=0
"""


def test_changes_are_counted_over_all_hosts() -> None:
    assert Play(RECAP, 1.0).changed == 5
    assert Play(f"PLAY RECAP\nother : ok=1 changed=9 unreachable=0 failed=0\n{RECAP}", 1.0).changed == 5
    assert (
        Play("PLAY RECAP ***\n\x1b[0;32mlocalhost\x1b[0m : ok=3 changed=0 unreachable=0 failed=0\n", 1.0).changed == 0
    )


def test_plays_are_told_and_timed_and_those_on_a_host_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    clock = iter([9.0, 10.0, 10.0, 14.5, 14.5, 20.0])
    monkeypatch.setattr("dev.sandboxes.time.monotonic", lambda: next(clock))
    progress = Progress(said.append)
    for line in (
        "PLAY [Only with a tag] ****",
        "PLAY [The network] ****",
        "TASK [One] ****",
        "ok: [localhost]",
        "TASK [Two] ****",
        "PLAY [Redis on the host] ****",
        "TASK [Three] ****",
        "\x1b[0;33mchanged: [i-0abc123 -> localhost]\x1b[0m",
        "PLAY RECAP ****",
    ):
        progress.line(line)
    assert said == ["    The network", "    Redis on the host"]
    assert [(one.name, one.seconds, one.on_host) for one in progress.plays] == [
        ("Only with a tag", 1.0, False),
        ("The network", 4.5, False),
        ("Redis on the host", 5.5, True),
    ]


def test_a_run_without_a_recap_is_not_a_run_without_changes() -> None:
    with pytest.raises(Failed, match="without a recap"):
        _ = Play("ERROR! no such playbook", 1.0).changed
