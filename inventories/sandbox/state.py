#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the running sandbox says of itself: a dynamic inventory, read once in a run and not by every task."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

NAME = os.environ.get("SPOTCACHE_SANDBOX", "demo")
FILE = Path("/var/lib/spotcache-sandbox") / NAME / "state.json"


def main() -> int:
    """Print the inventory that Ansible asks for; without a sandbox that runs it is an error, and says what to do."""
    try:
        state = json.loads(FILE.read_text())
    except (OSError, ValueError) as error:
        print(f"The sandbox {NAME} does not run ({error}): ./spotcache sandbox up {NAME}", file=sys.stderr)
        return 1
    environment = {
        "AWS_REGION": state["region"],
        "AWS_DEFAULT_REGION": state["region"],
        "AWS_ENDPOINT_URL": state["endpoint"],
        "AWS_ENDPOINT_URL_EC2_INSTANCE_CONNECT": state["tunnels"],
        "AWS_ACCESS_KEY_ID": state["operator"]["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": state["operator"]["secret_access_key"],
    }
    variables = {"sandbox__name": NAME, "sandbox__state": state, "sandbox__environment": environment}
    print(json.dumps({"all": {"vars": variables}, "_meta": {"hostvars": {}}}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
