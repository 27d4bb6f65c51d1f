# SPDX-License-Identifier: GPL-3.0-or-later
"""The function that does for the Redis host what an Auto Scaling group does not do by itself."""
