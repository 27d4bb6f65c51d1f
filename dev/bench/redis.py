# SPDX-License-Identifier: GPL-3.0-or-later
"""Redis in its container against the bare server on the same host: SET and GET rates, in alternating pairs.

Both serve the same settings; the client runs inside the host, one request at a time (no pipelining), on fifty
connections. Saving to the disk is off on both sides while measuring: it would come at other moments for one than for
the other. Writes build/bench/redis.json.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import statistics
import sys
from collections.abc import Mapping, Sequence

from dev import keys
from dev.sandboxes import PORT, Host, Sandbox
from dev.work import BUILD, Failed, Journal, end_on_sigterm, table

RESULT = BUILD / "bench" / "redis.json"
BARE_PORT = 6390
COMMANDS = ("SET", "GET")
GOAL = 0.95
# Settings of the container's server that a bare one must share to be comparable.
SHARED = (
    "maxmemory",
    "maxmemory-policy",
    "io-threads",
    "hz",
    "databases",
    "tcp-backlog",
    "tcp-keepalive",
    "timeout",
    "lazyfree-lazy-user-del",
)

START_BARE = """
set -eu
export DEBIAN_FRONTEND=noninteractive
server=$(docker inspect --format '{{index .Config.Cmd 0}}' spotcache-redis)
engine=${server%%-server}
command -v $engine-benchmark || { apt-get -q update; apt-get -q install -y --no-install-recommends $engine-tools; } >&2
mkdir -p /run/bench
# Debian's server is the binary of its check under another name; the name alone decides what it does.
ln -sf "$(readlink -f "$(command -v $engine-check-rdb)")" /run/bench/$server
ln -sf "$(command -v $engine-benchmark)" /run/bench/benchmark
cat > /run/bench/redis.conf <<'END'
%s
END
/run/bench/$server /run/bench/redis.conf --daemonize yes --dir /run/bench >/dev/null
""".strip()


def rates(report: str) -> dict[str, float]:
    """Requests a second for each command, from redis-benchmark's CSV."""
    return {row["test"]: float(row["rps"]) for row in csv.DictReader(io.StringIO(report))}


def median_ratios(container: Sequence[Mapping[str, float]], bare: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The container's median rate over the bare server's, for each command."""
    return {
        name: round(statistics.median(row[name] for row in container) / statistics.median(row[name] for row in bare), 3)
        for name in COMMANDS
    }


def measure(sandbox: Sandbox, host: Host, port: int, requests: int) -> dict[str, float]:
    """One run of the engine's benchmark inside the host. The script comes by standard input; no process list shows it.

    Its program is where `START_BARE` has put it.
    """
    command = (
        f"/run/bench/benchmark -h 127.0.0.1 -p {port} --user {keys.USERNAME} -a '{sandbox.password}' "
        f"-P 1 -c 50 -d 100 -r 100000 -n {requests} "
        f"-t {','.join(COMMANDS).lower()} --csv 2>/dev/null"
    )
    done = sandbox.on_host(host, command, timeout=300)
    found = rates(done.stdout)
    if done.returncode or set(found) != set(COMMANDS):
        raise Failed(f"the benchmark on port {port} failed: {done.stdout}{done.stderr}")
    return found


def start_bare(sandbox: Sandbox, host: Host) -> None:
    """A bare server with the container's settings, on the same host."""
    with sandbox.connect_as_keeper(host) as client:
        settings = {name: client.config_get(name).get(name, "") for name in SHARED}
        client.config_set("save", "")
        client.config_set("appendonly", "no")
    lines = [f"{name} {value}" for name, value in settings.items() if value]
    # The same user as in the container, with the same rules.
    users = sandbox.on_host(host, "cat /etc/spotcache/redis/users.acl").stdout.splitlines()
    lines += [line for line in users if line.startswith(f"user {keys.USERNAME} ")]
    lines += [f"port {BARE_PORT}", 'save ""', "appendonly no"]
    done = sandbox.on_host(host, START_BARE % "\n".join(lines), timeout=300)
    if done.returncode:
        raise Failed(f"a bare server could not be started on {host.id}: {done.stdout}{done.stderr}")


def bench(sandbox: Sandbox, pairs: int, requests: int) -> dict[str, object]:
    """Provision a host and measure both servers in turn; which one goes first alternates too."""
    journal = Journal()
    with journal.step("Sandbox up"):
        sandbox.up()
    with journal.step("Provision"):
        sandbox.play("provision", "-e", "spotcache_launch_from_image=false")
    host = sandbox.host()
    with journal.step("A bare server beside the container"):
        start_bare(sandbox, host)
    rows: dict[int, list[dict[str, float]]] = {PORT: [], BARE_PORT: []}
    for port in rows:  # a warm-up that does not count
        measure(sandbox, host, port, requests // 10)
    for pair in range(pairs):
        with journal.step(f"Pair {pair + 1} of {pairs}"):
            for port in list(rows)[:: 1 if pair % 2 == 0 else -1]:
                rows[port].append(measure(sandbox, host, port, requests))
    ratios = median_ratios(rows[PORT], rows[BARE_PORT])
    return {
        **{f"{name.lower()}_ratio": ratio for name, ratio in ratios.items()},
        "goal": GOAL,
        "pairs": pairs,
        "requests": requests,
        "container": rows[PORT],
        "bare": rows[BARE_PORT],
    }


def main(arguments: Sequence[str]) -> int:
    """The command line of this bench."""
    parser = argparse.ArgumentParser(prog="./spotcache bench redis", description=__doc__)
    parser.add_argument("--pairs", type=int, default=7, help="how many alternating pairs (at least 5; default 7)")
    parser.add_argument("--requests", type=int, default=200_000, help="requests of each kind in each run")
    asked = parser.parse_args(arguments)
    end_on_sigterm()
    if asked.pairs < 5:
        parser.error(f"--pairs is {asked.pairs}, and a median of fewer than 5 says little: use 5 or more")
    try:
        with Sandbox("bench-redis", BUILD / "bench" / "logs").running() as sandbox:
            result = bench(sandbox, asked.pairs, asked.requests)
    except Failed as error:
        print(f"bench redis: {error}", file=sys.stderr)
        return 1
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    rows = [[name, f"{result[f'{name.lower()}_ratio']}", f"at least {GOAL}"] for name in COMMANDS]
    print(f"\n{table(['container / bare', 'ratio', 'goal'], rows)}\n{RESULT}", flush=True)
    return 0 if all(float(str(result[f"{name.lower()}_ratio"])) >= GOAL for name in COMMANDS) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
