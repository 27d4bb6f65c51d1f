# SPDX-License-Identifier: GPL-3.0-or-later
"""What every unit test shares."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import botocore.loaders
import botocore.session
import hypothesis
import pytest

from dev import kept

# Else moto makes 1,300 images and as many policies for each test; those that need one make it.
os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"
os.environ["MOTO_IAM_LOAD_MANAGED_POLICIES"] = "false"
# Every session reads the services' models from disk, megabytes of JSON, and modules make a session at each run.
botocore.session.create_loader = functools.cache(botocore.loaders.create_loader)
# And every client has a class that is built anew, from a method for each of a service's calls.
kept.keep_client_classes()
# How long an example takes says something of the machine and what else it does, and nothing of the product.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], database=None
)
hypothesis.settings.load_profile("any machine")


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short name: the path of a Unix socket has room for 107 characters, and a test's name takes 30."""
    return tmp_path_factory.mktemp("t")
