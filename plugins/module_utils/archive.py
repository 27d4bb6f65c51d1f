"""Zip archives that follow from their content alone."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

# The earliest that the format knows. A file's own times would make every checkout another archive.
MOMENT = (1980, 1, 1, 0, 0, 0)


def stored(members: Mapping[str, bytes]) -> bytes:
    """An archive of these members, in the order in which they come; the same ones give the same bytes everywhere.

    Nothing is compressed: what zlib makes of the same bytes differs between its releases.
    """
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            member = zipfile.ZipInfo(name, MOMENT)
            member.create_system = 3
            member.external_attr = 0o100644 << 16
            archive.writestr(member, content)
    return data.getvalue()
