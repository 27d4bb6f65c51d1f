# SPDX-License-Identifier: GPL-3.0-or-later
"""What drives spotcache on a developer's machine: the demo, the benches, the checks and the generated documents."""
