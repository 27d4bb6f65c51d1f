# SPDX-License-Identifier: GPL-3.0-or-later
"""One verb over many environments, a few side by side: each has a log of its own, and all have one table at the end.

An inventory that is named is taken; of a folder of inventories each that says which spotcache_environment it is, but
for the sandbox. What is not an option of this program goes to each ansible-playbook. One that fails stops none; the
exit code is 1 then. Writes build/fleet/report.json.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dev.sandboxes import COLOR, Play
from dev.work import BUILD, ROOT, Failed, end_on_sigterm, stream, table, tool

FOLDER = BUILD / "fleet"
# Each run of Ansible takes a core and some 150 MB while it is at work, and mostly waits for AWS.
FORKS = 4
INVENTORY_NAMES = ("hosts.yml", "hosts.yaml", "hosts.ini", "hosts")
SANDBOX = ROOT / "inventories" / "sandbox"
_SAYS = re.compile(r"^\s*spotcache_environment\s*[:=]", re.MULTILINE)
_REASON = re.compile(r"^\[ERROR\]: (?:Task failed: )?(?:Action failed: |Module failed: )?(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Environment:
    """An inventory, and what it is called: its folder."""

    name: str
    inventory: Path


@dataclass(frozen=True)
class Result:
    """How a verb went in one environment.

    Attributes:
        name: of the environment.
        code: ansible-playbook's exit code.
        changed: tasks that changed something; None when the run did not come to its end.
        seconds: that it took.
        reason: the last error as Ansible says it; empty when it went well.
        log: where the whole output is.
    """

    name: str
    code: int
    changed: int | None
    seconds: float
    reason: str
    log: str


def verbs() -> list[str]:
    """The playbooks that a person may run; one that is about AWX itself is not about an environment."""
    return sorted(path.stem for path in (ROOT / "playbooks").glob("[!_]*.yml") if path.stem != "awx")


def is_inventory(folder: Path) -> bool:
    """Whether the folder is an inventory by itself."""
    return any((folder / name).is_file() for name in INVENTORY_NAMES)


def is_environment(folder: Path) -> bool:
    """Whether it is an inventory that says which environment it is; that of AWX's own objects, for one, does not."""
    files = [path for path in folder.rglob("*") if path.is_file()] if is_inventory(folder) else []
    return any(_SAYS.search(path.read_text(errors="replace")) for path in files)


def environments(named: Sequence[Path], sandbox: Path = SANDBOX) -> list[Environment]:
    """The environments that these folders are or hold, each once, by name.

    Raises:
        Failed: a folder is none or holds none, or two have one name.
    """
    found: dict[Path, Environment] = {}
    for given in named:
        folder = (given.parent if given.is_file() else given).resolve()
        if not folder.is_dir():
            raise Failed(f"-i {given}: there is no such folder or inventory.")
        within = [one for one in sorted(folder.iterdir()) if one != sandbox.resolve() and is_environment(one)]
        chosen = [folder] if is_inventory(folder) else within
        if not chosen:
            raise Failed(f"-i {given}: no inventory with a spotcache_environment is there.")
        found |= {one: Environment(one.name, one) for one in chosen}
    names = [one.name for one in found.values()]
    for name in names:
        if names.count(name) > 1:
            places = " and ".join(str(path) for path in found if path.name == name)
            raise Failed(f"Two inventories are called {name}: {places}. Their logs would be one.")
    return sorted(found.values(), key=lambda one: one.name)


def reason_of(text: str) -> str:
    """What stopped a run, in Ansible's words: its last error."""
    errors = _REASON.findall(COLOR.sub("", text))
    return " ".join(errors[-1].split()) if errors else ""


def run_one(verb: str, environment: Environment, options: Sequence[str]) -> Result:
    """Run the verb's playbook in one environment."""
    log = FOLDER / verb / f"{environment.name}.log"
    started = time.monotonic()
    command = [tool("ansible-playbook"), f"playbooks/{verb}.yml", "-i", str(environment.inventory), *options]
    # What is read is a log.
    code, text = stream(command, log, environment={"ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"})
    play = Play(text, time.monotonic() - started)
    changed = play.changed if play.recap else None
    reason = (reason_of(text) or f"exit code {code}") if code else ""
    return Result(environment.name, code, changed, round(play.seconds, 1), reason, str(log.relative_to(ROOT)))


def run_all(
    found: Sequence[Environment], forks: int, run: Callable[[Environment], Result], show: Callable[[str], None]
) -> list[Result]:
    """Run in all of them, so many at once; a line for each that begins and ends. In the order of the environments."""

    def one(environment: Environment) -> Result:
        show(f"  {environment.name}: begins")
        result = run(environment)
        show(f"  {result.name}: {'failed, ' + result.reason if result.code else 'done'} ({result.seconds:.0f} s)")
        return result

    with concurrent.futures.ThreadPoolExecutor(forks) as pool:
        waiting = [pool.submit(one, environment) for environment in found]
        try:
            return [future.result() for future in waiting]
        except BaseException:
            # Whoever ends this run wants no further environment to be touched.
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def report(results: Sequence[Result]) -> str:
    """The closing table, and where to read on about those that failed."""
    rows = [
        [
            one.name,
            "failed" if one.code else "ok",
            "-" if one.changed is None else str(one.changed),
            f"{one.seconds:.0f} s",
        ]
        for one in results
    ]
    failed = [one for one in results if one.code]
    lines = [table(["environment", "result", "changed", "time"], rows)]
    lines += [f"{one.name}: {one.reason}\n  the whole output: {one.log}" for one in failed]
    lines.append(f"{len(results) - len(failed)} of {len(results)} environments are done.")
    return "\n\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="./spotcache fleet", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", help="a playbook, such as provision, backup or cost")
    parser.add_argument(
        "-i", "--inventory", type=Path, action="append", help="an inventory, or a folder of them (default: inventories)"
    )
    parser.add_argument("--forks", type=int, default=FORKS, help=f"how many at once (default: {FORKS})")
    asked, options = parser.parse_known_args(arguments)
    end_on_sigterm()
    try:
        if asked.verb not in verbs():
            raise Failed(f"There is no verb {asked.verb} for environments: {', '.join(verbs())}.")
        if asked.forks < 1:
            raise Failed(f"--forks is {asked.forks}: at least one runs at a time.")
        found = environments(asked.inventory or [ROOT / "inventories"])
    except Failed as failed:
        print(f"{failed} Nothing was run.", file=sys.stderr)
        return 2
    print(f"{asked.verb}: {len(found)} environments, {min(asked.forks, len(found))} at a time", flush=True)
    started = time.monotonic()
    results = run_all(
        found,
        asked.forks,
        lambda environment: run_one(asked.verb, environment, options),
        lambda line: print(line, flush=True),
    )
    written = {
        "verb": asked.verb,
        "forks": asked.forks,
        "seconds": round(time.monotonic() - started, 1),
        "environments": [asdict(one) for one in results],
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "report.json").write_text(json.dumps(written, indent=2) + "\n")
    print(f"\n{report(results)}", flush=True)
    return 1 if any(one.code for one in results) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
