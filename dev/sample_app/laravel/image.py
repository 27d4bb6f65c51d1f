# SPDX-License-Identifier: GPL-3.0-or-later
"""The image of the verification application: Laravel, php-fpm, nginx and Redis from Debian's packages.

One image, several parts, chosen by command: ``verify php``, ``verify nginx``, ``verify web`` (both), ``redis-server``,
``php artisan``. Its parent is the sandbox's host image, so that with systemd it is also a whole web host.

``python -m dev.sample_app.laravel.image`` builds what is missing, for Laravel 8 and 10, and prints the tags.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import docker

from sandbox import image as host_image

REPOSITORY: Final = "spotcache-laravel"
HERE: Final = Path(__file__).parent
# Debian's, each with a Laravel of its own: 8 and 10.
RELEASES: Final = ("12", "13")
PACKAGES: Final = (
    "curl",
    "nginx-light",
    "php-apcu",
    "php-cli",
    "php-fpm",
    "php-laravel-framework",
    "php-predis",
    "php-redis",
    "php-sqlite3",
    "redis-server",
    "supervisor",
)
PHP_VERSION: Final = "php -r 'echo PHP_MAJOR_VERSION.chr(46).PHP_MINOR_VERSION;'"
WRITABLE: Final = " ".join(
    f"/srv/app/{folder}"
    for folder in (
        "bootstrap/cache",
        "database",
        "storage/logs",
        "storage/framework/cache",
        "storage/framework/sessions",
        "storage/framework/views",
    )
)

Progress = Callable[[str], None]


def packages_steps(parent: str) -> str:
    """The slow part: packages only, and nothing of them runs by itself but nginx and php-fpm, once systemd does."""
    return (
        f"FROM {parent}\n"
        "RUN printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d"
        " && export DEBIAN_FRONTEND=noninteractive"
        " && apt-get -qq update"
        f" && apt-get -qq install -y --no-install-recommends {' '.join(PACKAGES)} >/dev/null"
        " && apt-get clean && rm /usr/sbin/policy-rc.d"
        " && systemctl disable redis-server.service supervisor.service\n"
    )


def application_steps(parent: str) -> str:
    """The quick part: the application and how it is served."""
    return (
        f"FROM {parent}\n"
        "COPY rootfs/ /\n"
        "COPY app/ /srv/app/\n"
        "COPY layouts/ /srv/layouts/\n"
        # Debian's releases have a PHP each.
        f'RUN sed -i "s/VERSION/$({PHP_VERSION})/" /etc/nginx/php-fpm.conf /usr/local/bin/verify\n'
        # Whoever deploys is not who serves.
        "RUN useradd --create-home deploy\n"
        f"RUN mkdir -p {WRITABLE} && chown -R www-data:www-data {WRITABLE}\n"
        "WORKDIR /srv/app\n"
    )


def tags(parent: str, assets: Sequence[tuple[str, int, bytes]]) -> tuple[str, str]:
    """The tags of the two parts; each is a hash of all that goes in."""
    packages = f"{REPOSITORY}/packages:{host_image.digest(packages_steps(parent))}"
    parts: list[bytes | str] = [application_steps(packages)]
    for path, mode, content in assets:
        parts += [path, oct(mode), content]
    return packages, f"{REPOSITORY}/app:{host_image.digest(*parts)}"


def read_assets() -> list[tuple[str, int, bytes]]:
    """What goes in: the application and its surroundings."""
    return [
        asset
        for asset in host_image.read_assets(HERE)
        if asset[0].startswith(("app/", "layouts/", "rootfs/")) and not asset[0].endswith("/.env")
    ]


def ensure(release: str = "12", *, client: Any = None, progress: Progress = lambda _: None) -> str:
    """Return the image's tag, built if this machine does not have it yet.

    Args:
        release: Debian's, which decides what Laravel is in it: 8 in Debian 12, 10 in Debian 13.
        client: Docker's client.
        progress: what is told of a build.

    Raises:
        ImageError: it cannot be built.
    """
    engine = client if client is not None else docker.from_env(timeout=900)
    # Whichever release the hosts have.
    parent = host_image.ensure("debian", release=release, client=engine, progress=progress)
    assets = read_assets()
    packages, tag = tags(parent, assets)
    if host_image.exists(engine, tag):
        return tag
    with host_image.machine_lock():
        if not host_image.exists(engine, packages):
            context = host_image.build_context(packages_steps(parent), [], {})
            host_image.build(engine, packages, context, progress)
        if not host_image.exists(engine, tag):
            context = host_image.build_context(application_steps(packages), assets, {})
            host_image.build(engine, tag, context, progress)
    return tag


def main() -> int:
    """Print the tags; progress and errors go to standard error."""
    try:
        for release in RELEASES:
            print(ensure(release, progress=lambda line: print(line, file=sys.stderr, flush=True)))
    except host_image.ImageError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
