# SPDX-License-Identifier: GPL-3.0-or-later
"""The keeper's own code on simulated time: hosts, S3, EC2 and Redis as models, faults drawn from a seed."""

from __future__ import annotations

import sys

from dev.work import ROOT

# What runs on hosts and in Lambda is no package of this project's own environment.
sys.path[:0] = [str(ROOT / "roles" / role / "files") for role in ("keeper", "fallback_controller")]
