"""The frame of a module that has a thing in AWS, or has it gone."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

# AnsibleAWSModule says that it is missing before anything is asked.
with contextlib.suppress(ImportError):
    from botocore.exceptions import BotoCoreError, ClientError


class Trouble(Exception):
    """What a person must be told."""


class AwsModule(Protocol):
    """What is needed of amazon.aws's AnsibleAWSModule."""

    def fail_json(self, msg: str) -> None:
        """End with a failure."""

    def fail_json_aws(self, exception: Exception, msg: str) -> None:
        """End with a failure that AWS gave the reason for."""

    def exit_json(self, **result: Any) -> None:
        """End well."""


def finish(module: AwsModule, ensure: Callable[[], dict[str, Any]], cannot: str) -> None:
    """Do it, and end the module with what came of it. `cannot` is the sentence for a refusal of AWS's."""
    try:
        result = ensure()
    except Trouble as trouble:
        module.fail_json(msg=str(trouble))
    except (ClientError, BotoCoreError) as error:
        module.fail_json_aws(error, msg=cannot)
    else:
        module.exit_json(**result)
