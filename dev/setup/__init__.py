# SPDX-License-Identifier: GPL-3.0-or-later
"""What ./spotcache prepares before a verb runs. Only the standard library: there is nothing else yet."""
