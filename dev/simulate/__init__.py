# SPDX-License-Identifier: GPL-3.0-or-later
"""The keeper's own code on simulated time: hosts, S3, EC2 and Redis as models, faults drawn from a seed."""
