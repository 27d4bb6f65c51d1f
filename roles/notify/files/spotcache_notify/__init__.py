# SPDX-License-Identifier: GPL-3.0-or-later
"""The function that tells people what became of their Redis host."""
