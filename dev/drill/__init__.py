# SPDX-License-Identifier: GPL-3.0-or-later
"""Drills in a sandbox, against the least that this machine can do."""
