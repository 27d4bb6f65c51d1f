"""Runs a module of awx.awx, or of a fork of it, that is only known when the play runs."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader, module_loader

KINDS = [
    "credential",
    "credential_type",
    "execution_environment",
    "inventory",
    "inventory_source",
    "job_template",
    "notification_template",
    "organization",
    "project",
    "schedule",
    "workflow_job_template",
    "workflow_job_template_node",
]
# What the modules say when an object that this one belongs to is not there; the last is how the module schedule fails.
MISSING = re.compile(
    r"returned 0 items, expected 1|was not found|[Cc]ould not find|'NoneType' object is not subscriptable"
)

ENCRYPTED = "$encrypted$"


def without_owner(result: Mapping[str, Any]) -> bool:
    """Whether a module failed because what its object belongs to is not there."""
    told = " ".join(str(result.get(key, "")) for key in ("msg", "module_stderr", "exception"))
    return bool(result.get("failed")) and MISSING.search(told) is not None


def is_as_wanted(shown: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a notification template is as wanted, as far as the server shows it: a secret it never does."""
    there = shown.get("notification_configuration") or {}
    given: Mapping[str, Any] = wanted.get("notification_configuration") or {}
    same = {name for name, value in given.items() if there.get(name) in (value, ENCRYPTED)}
    return shown.get("notification_type") == wanted.get("notification_type") and same == set(given)


class ActionModule(ActionBase):
    """The action behind the module `controller_object`."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module, and read what it says of objects that are not there."""
        super().run(tmp, task_vars)
        _result, wanted = self.validate_argument_spec(
            argument_spec={
                "collection": {"type": "str", "default": "awx.awx"},
                "kind": {"type": "str", "required": True, "choices": KINDS},
                "options": {"type": "dict", "required": True},
                "keep_secrets": {"type": "bool", "default": False},
            }
        )
        name = f"{wanted['collection']}.{wanted['kind']}"
        if not module_loader.find_plugin_with_context(name).resolved:
            raise AnsibleActionFail(
                f"There is no module {name} here. Install the collection that brings it, for example "
                "ansible-galaxy collection install awx.awx:24.6.1, or name the one that you have with awx_collection."
            )
        options: dict[str, Any] = wanted["options"]
        if wanted["kind"] == "notification_template" and wanted["keep_secrets"] and options.get("state") != "absent":
            found = self._shown(wanted["collection"], options, task_vars)
            if found and is_as_wanted(found, options):
                return {"changed": False, "id": found["id"]}
        result: dict[str, Any] = self._execute_module(module_name=name, module_args=options, task_vars=task_vars)
        if without_owner(result):
            if options.get("state") == "absent":
                return {"changed": False, "msg": f"What {options.get('name')} belonged to is gone, and so is it."}
            if self._task.check_mode:
                return {"changed": True, "msg": f"{options.get('name')} would be made with what it belongs to."}
        return result

    def _shown(
        self, collection: str, options: Mapping[str, Any], task_vars: dict[str, Any] | None
    ) -> dict[str, Any] | None:
        """A notification template as the server shows it, or None; its module changes one with a secret each time."""
        asked = {"name": options["name"], "organization__name": options.get("organization", "")}
        lookup = lookup_loader.get(f"{collection}.controller_api", loader=self._loader, templar=self._templar)
        rows = lookup.run(
            ["notification_templates"], variables=task_vars or {}, query_params=asked, return_objects=True
        )
        return rows[0] if len(rows) == 1 else None
