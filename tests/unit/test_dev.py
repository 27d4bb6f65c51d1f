# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo's verdict, the counting of tests, and the generated pages."""

from __future__ import annotations

import importlib.util
import json
import re
import time
from pathlib import Path

import pytest

from dev import demo, keys, reference, sanity, suites
from dev.sandboxes import Play, Progress
from dev.work import ROOT, Failed, Journal, Step, stream, table

RECAP = """
TASK [redis : Something] *****
changed: [i-0abc]

PLAY RECAP *********************************************************************
i-0abc                     : ok=41   changed=3    unreachable=0    failed=0    skipped=7    rescued=0    ignored=0
localhost                  : ok=30   changed=2    unreachable=0    failed=0    skipped=2    rescued=0    ignored=0
"""


def database(*content: str) -> keys.DatabasePrint:
    return keys.DatabasePrint(len(content), 0, b"".join(f"{text:-<41}".encode() for text in sorted(content)))


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


def test_the_verdict_is_equal_only_when_all_is() -> None:
    report = demo.Report(keys_before=2, finished=True)
    demo.compare(report, {0: database("a", "b")}, {0: database("a", "b")}, "then")
    assert report.verdict == "equal"
    assert report.keys_after == 2
    report.finished = False
    assert report.verdict == "NOT equal"


@pytest.mark.parametrize(
    "after",
    [
        {0: database("a", "x")},
        {0: database("a")},
        {},
        {0: database("a", "b"), 1: database("c")},
        {1: database("a", "b")},
    ],
)
def test_one_altered_value_is_not_equal(after: dict[int, keys.DatabasePrint]) -> None:
    report = demo.Report(keys_before=2, finished=True)
    demo.compare(report, {0: database("a", "b")}, after, "then")
    assert not report.values_equal
    assert report.verdict == "NOT equal"
    assert report.problems


def test_what_was_wrong_once_stays_wrong() -> None:
    report = demo.Report(keys_before=2, finished=True)
    demo.compare(report, {0: database("a", "b")}, {0: database("a")}, "on the next host")
    demo.compare(report, {0: database("a", "b")}, {0: database("a", "b")}, "after the restore")
    assert report.values_equal
    assert report.verdict == "NOT equal"
    assert any(problem.startswith("on the next host: ") for problem in report.problems)


def test_an_empty_redis_before_is_not_a_success() -> None:
    report = demo.Report(finished=True)
    demo.compare(report, {}, {}, "then")
    assert report.verdict == "NOT equal"


def test_the_report_has_the_named_fields_and_a_table() -> None:
    report = demo.Report(
        keys_before=2,
        finished=True,
        second_provision_changed=0,
        check_mode_changed=0,
        session_survived=True,
        env_second_run_changed=0,
        steps=[Step("Provision", 61.25)],
    )
    demo.compare(report, {0: database("a", "b")}, {0: database("a", "b")}, "then")
    written = json.loads(json.dumps(report.as_json()))
    assert {
        "keys_before": 2,
        "keys_after": 2,
        "values_equal": True,
        "second_provision_changed": 0,
        "session_survived": True,
        "env_second_run_changed": 0,
    }.items() <= written.items()
    assert written["steps"] == [{"name": "Provision", "seconds": 61.25}]
    assert written["verdict"] == "equal"
    text = report.as_text()
    assert "Provision     61.2" in text
    assert "The Laravel application after the loss: same cookies, sessions and caches as before" in text
    assert text.endswith("Verdict: equal")


def test_steps_are_timed_and_a_failing_one_is_said() -> None:
    said: list[str] = []
    journal = Journal(out=said.append)
    with journal.step("One"):
        pass
    with pytest.raises(Failed), journal.step("Two"):
        raise Failed("no")
    assert [step.name for step in journal.steps] == ["One"]
    assert said[-1].startswith("    Two: failed after")


def test_a_table_lines_up() -> None:
    assert (
        table(["step", "s"], [["a", "1.0"], ["longer", "12.5"]])
        == "step       s\n------  ----\na        1.0\nlonger  12.5"
    )


def test_a_child_gets_no_standard_input_and_its_output_is_logged(tmp_path: Path) -> None:
    code, text = stream(["sh", "-c", "cat; echo out; echo err >&2; exit 3"], tmp_path / "log")
    assert (code, text) == (3, "out\nerr\n")
    assert (tmp_path / "log").read_text() == text


def test_a_child_that_hangs_is_ended(tmp_path: Path) -> None:
    code, _ = stream(["sleep", "60"], tmp_path / "log", timeout=0.2)
    assert code == -9


JUNIT = '<testsuites><testsuite tests="9" failures="{failures}" errors="{errors}" skipped="1"/></testsuites>'


@pytest.mark.parametrize(
    ("failures", "errors", "code", "count"),
    [
        (0, 0, 0, suites.Count(8, 0, 1)),
        (2, 1, 1, suites.Count(5, 3, 1)),
        (0, 0, 2, suites.Count(8, 1, 1)),  # interrupted: nothing failed in the report, and yet it did not end well
    ],
)
def test_tests_are_counted_from_the_report(
    tmp_path: Path, failures: int, errors: int, code: int, count: suites.Count
) -> None:
    report = tmp_path / "report.xml"
    report.write_text(JUNIT.format(failures=failures, errors=errors))
    assert suites.count_junit(report, code) == count


def test_a_missing_report_is_a_failure(tmp_path: Path) -> None:
    assert suites.count_junit(tmp_path / "none.xml", 0) == suites.Count(failed=1)


def test_a_runner_that_ran_nothing_has_not_passed() -> None:
    assert not suites.Outcome("unit", 0, 1.0, suites.Count()).good
    assert suites.Outcome("unit", 0, 1.0, suites.Count(passed=1)).good
    assert not suites.Outcome("unit", 1, 1.0, suites.Count(passed=1)).good


def test_the_closing_line_counts_everything() -> None:
    outcomes = [
        ("check", suites.Outcome("ruff", 0, 1.0, suites.Count(passed=1))),
        ("e2e", suites.Outcome("e2e", 1, 9.0, suites.Count(passed=7, failed=2))),
    ]
    assert suites.report(outcomes, 10.0).splitlines()[-1] == "8 passed, 2 failed"


def test_a_failing_job_shows_the_end_of_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suites, "RESULTS", tmp_path)
    monkeypatch.setattr(suites, "ROOT", tmp_path)
    jobs = [suites.Job("good", ["true"]), suites.Job("bad", ["sh", "-c", "echo the reason; exit 4"])]
    outcomes = {one.name: one for one in suites.run_jobs(jobs, side_by_side=2)}
    assert outcomes["good"].count == suites.Count(passed=1)
    assert (outcomes["bad"].code, outcomes["bad"].count) == (4, suites.Count(failed=1))
    assert "the reason" in capsys.readouterr().out


def test_a_run_that_is_ended_begins_no_further_job(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [suites.Job(str(number), []) for number in range(5)]
    begun: list[str] = []

    def run_job(job: suites.Job, *rest: object) -> suites.Outcome:
        begun.append(job.name)
        time.sleep(0.3)
        return suites.Outcome(job.name, 0, 0.0, suites.Count(passed=1))

    def ended(*arguments: object, **more: object) -> None:
        raise SystemExit(143)

    monkeypatch.setattr(suites, "run_job", run_job)
    monkeypatch.setattr("concurrent.futures.wait", ended)
    with pytest.raises(SystemExit):
        suites.run_jobs(jobs, side_by_side=1)
    assert len(begun) == 1


def test_ansible_tests_installer_of_pip_is_named_as_the_one_that_is_installed_here_asks_for_it() -> None:
    spec = importlib.util.find_spec("ansible_test")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0])
    name = sanity.bootstrap_name((folder / "_internal" / "python_requirements.py").read_text())
    # What is to be there instead of a download.
    installer = (folder / "_util" / "target" / "setup" / "requirements.py").read_text()
    assert "~/.ansible/test/cache/get_pip_%s.py" in installer
    assert re.fullmatch(r"get_pip_\d+_\d+(_\d+)?\.py", name)
    with pytest.raises(ValueError, match="which pip"):
        sanity.bootstrap_name("nothing")


def test_every_file_of_end_to_end_tests_runs_once() -> None:
    asked = [
        word for jobs in suites.e2e_jobs() for one in jobs for word in one.command if word.startswith("tests/e2e/")
    ]
    assert sorted(asked) == sorted(f"tests/e2e/{path.name}" for path in (ROOT / "tests" / "e2e").glob("test_*.py"))


SPECS = {
    "main": {
        "short_description": "One thing",
        "description": ["First.", "Second."],
        "options": {
            "thing_kind": {"type": "str", "default": "a", "choices": ["a", "b"], "description": "Which | kind."},
            "thing_list": {"type": "list", "elements": "dict", "required": True, "options": {"name": {"type": "str"}}},
            "thing_none": {"type": "bool", "default": False},
        },
    }
}


def test_a_roles_page_shows_every_option() -> None:
    page = reference.role_page("thing", SPECS, "roles/thing/meta/argument_specs.yml")
    assert "| `thing_kind` | str | `a` | Which \\| kind.<br>One of `a`, `b`. |" in page
    assert "| `thing_list` | list of dict | **required** |  |" in page
    assert "| `thing_list.name` | str |  |  |" in page
    assert "| `thing_none` | bool | `false` |  |" in page
    assert "First.\n\nSecond." in page


def test_a_plugins_page_is_read_without_running_it(tmp_path: Path) -> None:
    folder = tmp_path / "plugins" / "modules"
    folder.mkdir(parents=True)
    (folder / "thing.py").write_text(
        'raise SystemExit("never run")\n'
        'DOCUMENTATION = """\nshort_description: A thing\noptions:\n'
        '  name: {type: str, required: true, description: Its name.}\n"""\n'
        'EXAMPLES = """\n- spotcache.redis.thing:\n    name: x\n"""\n'
        'RETURN = """\nid: {type: str, returned: always, description: Its id.}\n"""\n'
    )
    page = reference.plugin_pages(tmp_path)["module-thing.md"]
    assert "# Module spotcache.redis.thing" in page
    assert "| `name` | str | **required** | Its name. |" in page
    assert "| `id` | str | always | Its id. |" in page
    assert "- spotcache.redis.thing:" in page


def test_a_plugins_page_has_the_options_of_fragments_and_its_own_words_for_them(tmp_path: Path) -> None:
    (tmp_path / "plugins" / "modules").mkdir(parents=True)
    (tmp_path / "plugins" / "doc_fragments").mkdir()
    (tmp_path / "plugins" / "doc_fragments" / "place.py").write_text(
        'class ModuleDocFragment:\n    PARTS = """\noptions:\n'
        "  room: {type: str, required: true, description: Any room.}\n"
        '  floor: {type: int, default: 0, description: Which floor.}\n"""\n'
    )
    (tmp_path / "plugins" / "modules" / "thing.py").write_text(
        'DOCUMENTATION = """\nextends_documentation_fragment: [amazon.aws.boto3, spotcache.redis.place.parts]\n'
        'options:\n  room: {description: The thing\'s room.}\n  name: {type: str, description: Its name.}\n"""\n'
    )
    page = reference.plugin_pages(tmp_path)["module-thing.md"]
    assert "| `room` | str | **required** | The thing's room. |" in page
    assert "| `floor` | int | `0` | Which floor. |" in page
    assert "| `name` | str |  | Its name. |" in page


def test_drift_names_what_is_stale_missing_and_too_many(tmp_path: Path) -> None:
    for name, text in {"same.md": "1", "stale.md": "old", "too-many.md": "x"}.items():
        (tmp_path / name).write_text(text)
    assert reference.drift({"same.md": "1", "stale.md": "new", "missing.md": "x"}, tmp_path) == [
        "missing.md",
        "stale.md",
        "too-many.md",
    ]
