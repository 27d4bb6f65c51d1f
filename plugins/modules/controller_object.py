#!/usr/bin/python
"""An object of an AWX server, by the modules of awx.awx or of a fork of it."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# The work is done by the action plugin of the same name; this file is its documentation.
from __future__ import annotations

DOCUMENTATION = r"""
---
module: controller_object
short_description: An object of an AWX server, by the modules of awx.awx or of a fork of it
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Runs a module of the collection C(awx.awx), or of a fork whose modules have the same options, which is only known
    when the play runs. A play that names these modules itself can neither be read nor be checked where the collection
    is not installed, and must be written twice for a fork.
  - The server is found as these modules find it, by C(CONTROLLER_HOST), C(CONTROLLER_OAUTH_TOKEN) and their like in the
    environment.
options:
  collection:
    description: The collection, for example V(awx.awx) or V(ctrliq.ascender).
    type: str
    default: awx.awx
  kind:
    description: The module, which is called as the object is.
    type: str
    required: true
    choices:
      - credential
      - credential_type
      - execution_environment
      - inventory
      - inventory_source
      - job_template
      - notification_template
      - organization
      - project
      - schedule
      - workflow_job_template
      - workflow_job_template_node
  options:
    description:
      - The module's options, among them C(state). One of them may be secret, so give the task C(no_log) where it is.
    type: dict
    required: true
  keep_secrets:
    description:
      - Whether a notification template is left alone when all that the server shows of it is as wanted. Its module
        changes one that has a secret each time, since the server never shows it. The module C(credential) has an
        option C(update_secrets) instead.
    type: bool
    default: false
attributes:
  check_mode:
    description:
      - Says what would change, as the module does. An object that needs another one which would only be made in the
        run counts as one that would be made as well.
    support: full
  diff_mode:
    description: The modules have none.
    support: none
"""

EXAMPLES = r"""
- name: Ensure the organisation
  spotcache.redis.controller_object:
    kind: organization
    options: {name: spotcache, description: Redis on Spot hosts}
"""

RETURN = r"""
id:
  description: The object's number on the server.
  returned: when there is one
  type: int
"""
