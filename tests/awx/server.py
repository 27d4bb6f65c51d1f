# SPDX-License-Identifier: GPL-3.0-or-later
"""A controller's API on loopback, as strict as AWX 24.6.1 about what the role awx sends it.

Required fields, numbers of other objects, names that may be there once, secrets that are never shown, surveys, rules
and associations are as in AWX's serializers and views. Nothing runs in it: a project is synchronised once it is made.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ansible_collections.spotcache.redis.plugins.module_utils.awx_rules import rrule_problems, survey_problems

TOKEN = "a-token-of-the-tests"
ENCRYPTED = "$encrypted$"


class Refused(Exception):
    """What the server says, with the status that it says it with."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        super().__init__(str(body))
        self.status, self.body = status, body


@dataclass(frozen=True)
class Kind:
    """What AWX knows of a kind of object: its fields, which of them must be given, and what they refer to."""

    type: str
    fields: tuple[str, ...]
    required: tuple[str, ...] = ("name",)
    refers: Mapping[str, str] = field(default_factory=dict)
    unique: tuple[str, ...] = ("name",)
    associations: tuple[str, ...] = ()
    # What goes when the object that it belongs to goes.
    owner: tuple[str, ...] = ()


EVENTS = ("notification_templates_started", "notification_templates_success", "notification_templates_error")
TEMPLATE = (
    "name",
    "description",
    "job_type",
    "inventory",
    "project",
    "playbook",
    "scm_branch",
    "forks",
    "limit",
    "verbosity",
    "extra_vars",
    "job_tags",
    "force_handlers",
    "skip_tags",
    "start_at_task",
    "timeout",
    "use_fact_cache",
    "organization",
    "execution_environment",
    "host_config_key",
    "ask_scm_branch_on_launch",
    "ask_diff_mode_on_launch",
    "ask_variables_on_launch",
    "ask_limit_on_launch",
    "ask_tags_on_launch",
    "ask_skip_tags_on_launch",
    "ask_job_type_on_launch",
    "ask_verbosity_on_launch",
    "ask_inventory_on_launch",
    "ask_credential_on_launch",
    "survey_enabled",
    "become_enabled",
    "diff_mode",
    "allow_simultaneous",
    "job_slice_count",
    "webhook_service",
    "webhook_credential",
    "prevent_instance_group_fallback",
)
KINDS: dict[str, Kind] = {
    "organizations": Kind(
        "organization",
        ("name", "description", "max_hosts", "default_environment"),
        associations=("galaxy_credentials", "notification_templates_approvals", *EVENTS),
    ),
    "execution_environments": Kind(
        "execution_environment",
        ("name", "description", "organization", "image", "credential", "pull"),
        required=("name", "image"),
        refers={"organization": "organizations", "credential": "credentials"},
        owner=("organization",),
    ),
    "credential_types": Kind(
        "credential_type", ("name", "description", "kind", "inputs", "injectors", "managed"), required=("name", "kind")
    ),
    "credentials": Kind(
        "credential",
        ("name", "description", "organization", "credential_type", "inputs", "user", "team"),
        required=("name", "credential_type"),
        refers={"organization": "organizations", "credential_type": "credential_types"},
        unique=("name", "organization", "credential_type"),
        owner=("organization",),
    ),
    "projects": Kind(
        "project",
        (
            "name",
            "description",
            "local_path",
            "scm_type",
            "scm_url",
            "scm_branch",
            "scm_refspec",
            "scm_clean",
            "scm_track_submodules",
            "scm_delete_on_update",
            "credential",
            "timeout",
            "organization",
            "scm_update_on_launch",
            "scm_update_cache_timeout",
            "allow_override",
            "default_environment",
            "signature_validation_credential",
        ),
        refers={
            "organization": "organizations",
            "credential": "credentials",
            "default_environment": "execution_environments",
        },
        unique=("name", "organization"),
        associations=EVENTS,
        owner=("organization",),
    ),
    "inventories": Kind(
        "inventory",
        ("name", "description", "organization", "kind", "host_filter", "variables"),
        required=("name", "organization"),
        refers={"organization": "organizations"},
        unique=("name", "organization"),
        owner=("organization",),
    ),
    "inventory_sources": Kind(
        "inventory_source",
        (
            "name",
            "description",
            "source",
            "source_path",
            "source_vars",
            "scm_branch",
            "credential",
            "enabled_var",
            "enabled_value",
            "host_filter",
            "overwrite",
            "overwrite_vars",
            "timeout",
            "verbosity",
            "limit",
            "execution_environment",
            "inventory",
            "update_on_launch",
            "update_cache_timeout",
            "source_project",
        ),
        required=("name", "inventory", "source"),
        refers={"inventory": "inventories", "source_project": "projects"},
        unique=("name", "inventory"),
        associations=EVENTS,
        owner=("inventory",),
    ),
    "notification_templates": Kind(
        "notification_template",
        ("name", "description", "organization", "notification_type", "notification_configuration", "messages"),
        required=("name", "organization", "notification_type", "notification_configuration"),
        refers={"organization": "organizations"},
        unique=("name", "organization"),
        owner=("organization",),
    ),
    "job_templates": Kind(
        "job_template",
        TEMPLATE,
        required=("name", "job_type", "project", "playbook"),
        refers={
            "organization": "organizations",
            "inventory": "inventories",
            "project": "projects",
            "execution_environment": "execution_environments",
        },
        unique=("name", "organization"),
        associations=("credentials", "labels", "instance_groups", *EVENTS),
        owner=("organization",),
    ),
    "schedules": Kind(
        "schedule",
        (
            "rrule",
            "name",
            "description",
            "extra_data",
            "inventory",
            "scm_branch",
            "job_type",
            "job_tags",
            "skip_tags",
            "limit",
            "diff_mode",
            "verbosity",
            "unified_job_template",
            "enabled",
            "forks",
            "job_slice_count",
            "timeout",
            "execution_environment",
        ),
        required=("name", "rrule", "unified_job_template"),
        refers={"unified_job_template": "unified_job_templates"},
        unique=("name", "unified_job_template"),
        associations=("credentials", "labels", "instance_groups"),
        owner=("unified_job_template",),
    ),
    "workflow_job_templates": Kind(
        "workflow_job_template",
        (
            "name",
            "description",
            "extra_vars",
            "organization",
            "survey_enabled",
            "allow_simultaneous",
            "ask_variables_on_launch",
            "inventory",
            "limit",
            "scm_branch",
            "ask_inventory_on_launch",
            "ask_scm_branch_on_launch",
            "ask_limit_on_launch",
            "webhook_service",
            "webhook_credential",
            "ask_labels_on_launch",
            "ask_skip_tags_on_launch",
            "ask_tags_on_launch",
            "skip_tags",
            "job_tags",
        ),
        refers={"organization": "organizations", "inventory": "inventories"},
        unique=("name", "organization"),
        associations=("notification_templates_approvals", "labels", *EVENTS),
        owner=("organization",),
    ),
    "workflow_job_template_nodes": Kind(
        "workflow_job_template_node",
        (
            "extra_data",
            "inventory",
            "scm_branch",
            "job_type",
            "job_tags",
            "skip_tags",
            "limit",
            "diff_mode",
            "verbosity",
            "workflow_job_template",
            "unified_job_template",
            "all_parents_must_converge",
            "identifier",
            "forks",
            "job_slice_count",
            "timeout",
            "execution_environment",
        ),
        required=("workflow_job_template", "identifier"),
        refers={
            "workflow_job_template": "workflow_job_templates",
            "unified_job_template": "unified_job_templates",
        },
        unique=("identifier", "workflow_job_template"),
        associations=("success_nodes", "failure_nodes", "always_nodes", "credentials", "labels", "instance_groups"),
        owner=("workflow_job_template",),
    ),
    "workflow_approval_templates": Kind(
        "workflow_approval_template", ("name", "description", "timeout"), owner=("workflow_job_template",)
    ),
}
UNIFIED = ("projects", "inventory_sources", "job_templates", "workflow_job_templates", "workflow_approval_templates")
# The fields of a notification that AWX never shows.
SECRET = {"slack": ("token",), "email": ("password",), "webhook": ("password",), "mattermost": ()}
CONFIGURED = {
    "slack": {"token", "channels"},
    "webhook": {"url", "headers"},
    "email": {"host", "port", "username", "password", "use_tls", "use_ssl", "sender", "recipients"},
}
DETAIL = re.compile(r"^/api/v2/(?P<kind>[a-z_]+)/(?:(?P<id>\d+)/(?:(?P<part>[a-z_]+)/)?)?$")


class Controller:
    """The objects of a server, and what it says to a request."""

    def __init__(self, playbooks: set[str]) -> None:
        self.playbooks = playbooks
        self.objects: dict[str, dict[int, dict[str, Any]]] = {kind: {} for kind in KINDS}
        self.linked: dict[tuple[str, int, str], list[int]] = {}
        self.surveys: dict[tuple[str, int], dict[str, Any]] = {}
        self.writes: list[str] = []
        self.last = 0
        self.lock = threading.RLock()
        # What a fresh AWX has.
        galaxy = self.create("credential_types", {"name": "Ansible Galaxy/Automation Hub API Token", "kind": "galaxy"})
        cloud = self.create("credential_types", {"name": "Amazon Web Services", "kind": "cloud"})
        self.create("credentials", {"name": "Ansible Galaxy", "credential_type": galaxy["id"]})
        self.create("credentials", {"name": "aws", "credential_type": cloud["id"]})
        self.writes.clear()

    def names(self) -> set[str]:
        """All objects, by kind and name."""
        return {
            f"{KINDS[kind].type} {one.get('name') or one.get('identifier')}"
            for kind, found in self.objects.items()
            for one in found.values()
        }

    def find(self, kind: str, number: object) -> dict[str, Any]:
        """An object by its number. Raises Refused."""
        for one in UNIFIED if kind == "unified_job_templates" else (kind,):
            if isinstance(number, int) and number in self.objects[one]:
                return self.objects[one][number]
        raise Refused(400, {"detail": f'Invalid pk "{number}" - object does not exist.'})

    def shown(self, kind: str, one: Mapping[str, Any]) -> dict[str, Any]:
        """An object as the API shows it."""
        found: dict[str, Any] = {name: value for name, value in one.items() if value is not None}
        about = KINDS[kind]
        for name in about.fields:
            found.setdefault(name, None if name in (*about.refers, "host_filter") else "")
        if kind == "credentials":
            fields = self.find("credential_types", one["credential_type"]).get("inputs", {}).get("fields", [])
            secrets = {row["id"] for row in fields if row.get("secret")}
            inputs = one.get("inputs") or {}
            found["inputs"] = {name: ENCRYPTED if name in secrets else value for name, value in inputs.items()}
        if kind == "notification_templates":
            secrets = set(SECRET.get(one["notification_type"], ()))
            told = one["notification_configuration"]
            found["notification_configuration"] = {
                name: ENCRYPTED if name in secrets and value else value for name, value in told.items()
            }
        url = f"/api/v2/{kind}/{one['id']}/"
        related = {name: f"{url}{name}/" for name in about.associations}
        if kind in ("job_templates", "workflow_job_templates"):
            related["survey_spec"] = f"{url}survey_spec/"
        if kind == "workflow_job_template_nodes" and one.get("unified_job_template"):
            other = next(row for row in UNIFIED if one["unified_job_template"] in self.objects[row])
            related["unified_job_template"] = f"/api/v2/{other}/{one['unified_job_template']}/"
        return {
            **found,
            "type": about.type,
            "url": url,
            "related": related,
            "summary_fields": {},
            "scm_revision": "0" * 40,
        }

    def check(self, kind: str, wanted: Mapping[str, Any], number: int = 0) -> None:
        """What the serializers refuse. Raises Refused."""
        about, wrong = KINDS[kind], {}
        for name in about.required:
            if wanted.get(name) in (None, ""):
                wrong[name] = ["This field is required."]
        for name, other in about.refers.items():
            if wanted.get(name) is not None:
                self.find(other, wanted[name])
        key = [wanted.get(name) for name in about.unique]
        for one in self.objects[kind].values():
            if one["id"] != number and [one.get(name) for name in about.unique] == key:
                wrong["__all__"] = [f"{about.type} with this {', '.join(about.unique)} already exists."]
        if kind == "schedules":
            said = list(rrule_problems(str(wanted.get("rrule"))))
            if said:
                wrong["rrule"] = said
            wrong |= self.answers(wanted)
        if kind == "job_templates" and wanted.get("playbook") not in self.playbooks:
            wrong["playbook"] = ["Playbook not found for project."]
        if kind == "notification_templates":
            missing = CONFIGURED[wanted["notification_type"]] - set(wanted["notification_configuration"])
            if missing:
                wrong["notification_configuration"] = [f"Missing required fields: {sorted(missing)}"]
        if kind == "credentials":
            fields = self.find("credential_types", wanted["credential_type"]).get("inputs", {}).get("fields", [])
            extra = set(wanted.get("inputs") or {}) - {row["id"] for row in fields}
            if extra:
                wrong["inputs"] = [f"Additional properties are not allowed ({sorted(extra)})"]
        if wrong:
            raise Refused(400, wrong)

    def answers(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """What is wrong with what a schedule answers to its template's survey."""
        template = int(wanted["unified_job_template"])
        survey = self.surveys.get(("job_templates", template), {"spec": []})
        given = wanted.get("extra_data") or {}
        asked = {row["variable"]: row["required"] for row in survey["spec"]}
        strange = sorted(set(given) - set(asked))
        missing = [name for name, required in asked.items() if required and name not in given]
        found: dict[str, Any] = {}
        if strange:
            found["extra_data"] = [f"Variables {', '.join(strange)} are not allowed on launch."]
        if missing:
            found["variables_needed_to_start"] = [f"'{name}' value missing" for name in missing]
        return found

    def create(self, kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Make an object. Raises Refused."""
        about = KINDS[kind]
        one = {name: value for name, value in given.items() if name in about.fields}
        self.check(kind, one)
        self.last += 1
        one["id"] = self.last
        self.objects[kind][self.last] = one
        self.writes.append(f"POST {kind} {one.get('name') or one.get('identifier')}")
        return self.shown(kind, one)

    def change(self, kind: str, number: int, given: Mapping[str, Any]) -> dict[str, Any]:
        """Change an object. Raises Refused."""
        one = self.find(kind, number)
        wanted = {**one, **{name: value for name, value in given.items() if name in KINDS[kind].fields}}
        self.check(kind, wanted, number)
        one.update(wanted)
        self.writes.append(f"PATCH {kind} {one.get('name') or one.get('identifier')}")
        return self.shown(kind, one)

    def remove(self, kind: str, number: int) -> None:
        """Remove an object and what belongs to it. Raises Refused."""
        one = self.find(kind, number)
        if kind == "credential_types" and any(
            row["credential_type"] == number for row in self.objects["credentials"].values()
        ):
            raise Refused(403, {"detail": "Credential types that are in use cannot be deleted."})
        self.writes.append(f"DELETE {kind} {one.get('name') or one.get('identifier')}")
        del self.objects[kind][number]
        for other, about in KINDS.items():
            for row in list(self.objects[other].values()):
                if any(row.get(name) == number and kind in (about.refers.get(name), *UNIFIED) for name in about.owner):
                    self.remove(other, row["id"])

    def listed(self, kind: str, query: Mapping[str, str]) -> dict[str, Any]:
        """A list view."""
        kinds = UNIFIED if kind == "unified_job_templates" else (kind,)
        rows = [self.shown(each, one) for each in kinds for one in self.objects[each].values()]
        for name, value in query.items():
            plain = name.removeprefix("or__")
            if plain.endswith("__name"):
                about = KINDS[kind].refers[plain.removesuffix("__name")]
                ids = {one["id"] for one in self.objects[about].values() if one.get("name") == value}
                rows = [row for row in rows if row.get(plain.removesuffix("__name")) in ids]
            elif name in ("page_size", "order_by") or name.startswith("or__"):
                raise Refused(400, {"detail": f"{name} is not expected here"})
            elif rows and plain not in rows[0] and plain != "id":
                raise Refused(400, {"detail": f"{kind} has no field {name}"})
            else:
                rows = [row for row in rows if str(row.get(plain)) == value]
        return {"count": len(rows), "next": None, "previous": None, "results": rows}

    def part(self, method: str, kind: str, number: int, part: str, given: Mapping[str, Any]) -> tuple[int, object]:
        """What belongs to an object: a survey, an association, the template of an approval."""
        self.find(kind, number)
        if part == "survey_spec" and kind in ("job_templates", "workflow_job_templates"):
            if method == "GET":
                return 200, self.surveys.get((kind, number), {})
            said = list(survey_problems(given))
            if said:
                raise Refused(400, {"error": "; ".join(said)})
            self.surveys[kind, number] = dict(given)
            self.writes.append(f"POST survey {self.find(kind, number)['name']}")
            return 200, {}
        if part == "create_approval_template" and kind == "workflow_job_template_nodes" and method == "POST":
            made = self.create("workflow_approval_templates", given)
            node = self.find(kind, number)
            node["unified_job_template"] = made["id"]
            workflow = node["workflow_job_template"]
            self.objects["workflow_approval_templates"][made["id"]]["workflow_job_template"] = workflow
            return 201, made
        if part not in KINDS[kind].associations:
            raise Refused(404, {"detail": "Not found."})
        linked = self.linked.setdefault((kind, number, part), [])
        if method == "GET":
            return 200, {"count": len(linked), "next": None, "results": [{"id": other} for other in linked]}
        other = int(given["id"])
        target = "workflow_job_template_nodes" if part.endswith("_nodes") else part
        target = "credentials" if part == "galaxy_credentials" else target
        target = "notification_templates" if part.startswith("notification_templates") else target
        self.find(target, other)
        self.writes.append(f"POST {kind} {number} {part}")
        if given.get("disassociate"):
            linked.remove(other)
        else:
            linked.append(other)
        return 204, None

    def answer(self, method: str, path: str, query: Mapping[str, str], given: Mapping[str, Any]) -> tuple[int, object]:
        """Status and body. Raises Refused."""
        match = DETAIL.match(path)
        if match is None or match["kind"] not in {*KINDS, "unified_job_templates"}:
            raise Refused(404, {"detail": "Not found."})
        kind, number = match["kind"], int(match["id"] or 0)
        if number and match["part"]:
            return self.part(method, kind, number, match["part"], given)
        if not number:
            return (200, self.listed(kind, query)) if method == "GET" else (201, self.create(kind, given))
        if number not in self.objects[kind]:
            raise Refused(404, {"detail": "Not found."})
        if method == "DELETE":
            self.remove(kind, number)
            return 204, None
        if method == "PATCH":
            return 200, self.change(kind, number, given)
        return 200, self.shown(kind, self.objects[kind][number])


def handler(controller: Controller) -> type[BaseHTTPRequestHandler]:
    """What answers a connection."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            given = json.loads(self.rfile.read(length) or b"{}")
            url = urlsplit(self.path)
            try:
                if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    raise Refused(401, {"detail": "Authentication credentials were not provided."})
                with controller.lock:
                    status, body = controller.answer(self.command, url.path, dict(parse_qsl(url.query)), given)
            except Refused as refused:
                status, body = refused.status, refused.body
            text = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("X-API-Product-Name", "AWX")
            self.send_header("X-API-Product-Version", "24.6.1")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PATCH = do_DELETE = reply  # noqa: N815 - the base class's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Say nothing."""

    return Handler


@contextlib.contextmanager
def running(playbooks: set[str]) -> Iterator[tuple[str, Controller]]:
    """A server on loopback: its address, and what it has."""
    controller = Controller(playbooks)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(controller))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", controller
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
