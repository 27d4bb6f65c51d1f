# SPDX-License-Identifier: GPL-3.0-or-later
"""Manifests: read as they were written, and refused when they are wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from spotcache_keeper.errors import DamagedError
from spotcache_keeper.stores.manifest import parse_manifest

from tests.unit.keeper.examples import MANIFEST


def test_a_manifest_survives_its_file() -> None:
    assert parse_manifest(MANIFEST.to_json()) == MANIFEST


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("rdb"), "lacks or misstates 'rdb'"),
        (lambda data: data.update(schema=2), "has schema 2; this keeper reads 1"),
        (lambda data: data.update(id="x"), "id 'x' is no backup's id"),
        (lambda data: data.update(keys=12), "databases hold 11 keys, but it says 12"),
        (lambda data: data["rdb"].update(bytes=-1), "a count: -1"),
        (lambda data: data["rdb"].update(bytes=True), "a count: True"),
        (lambda data: data["rdb"].update(sha256="no"), "SHA-256 'no' is none"),
        (lambda data: data.update(created="yesterday"), "lacks or misstates"),
        (lambda data: data.update(databases=[]), "lacks or misstates"),
    ],
)
def test_a_manifest_that_is_wrong(change: Callable[[dict[str, Any]], Any], message: str) -> None:
    data = json.loads(MANIFEST.to_json())
    change(data)
    with pytest.raises(DamagedError) as caught:
        parse_manifest(json.dumps(data))
    assert message in str(caught.value)


def test_a_manifest_of_a_time_that_knew_redis_alone_is_read() -> None:
    data = json.loads(MANIFEST.to_json())
    del data["engine"], data["rdb"]["version"]
    found = parse_manifest(json.dumps(data))
    assert (found.engine, found.rdb_version, found.redis_version) == ("", 0, "7.0.15")


@pytest.mark.parametrize("text", ["", "[]", "null", "{"])
def test_what_is_no_manifest_at_all(text: str) -> None:
    with pytest.raises(DamagedError, match=r"not (JSON|a JSON object)"):
        parse_manifest(text)


def test_every_flipped_bit_of_a_manifest_is_an_error_or_changes_it() -> None:
    good = MANIFEST.to_json().encode()
    for position in range(len(good)):
        altered = bytearray(good)
        altered[position] ^= 0x08
        try:
            parsed = parse_manifest(bytes(altered))
        except DamagedError:
            continue
        # Blanks between the values are the one thing that may differ.
        assert parsed != MANIFEST or good[position : position + 1].isspace() or bytes(altered).split() == good.split()
