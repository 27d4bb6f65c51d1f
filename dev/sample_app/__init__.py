# SPDX-License-Identifier: GPL-3.0-or-later
"""What a team has around Redis, for demos and tests: Laravel applications, batches, a web fleet, Slack."""
