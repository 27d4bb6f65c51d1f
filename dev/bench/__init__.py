# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast it is: each program measures one thing, for itself."""
