"""What is wrong with the variables of the role laravel_env, before anything is asked."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import re
from collections.abc import Iterator

from ansible_collections.spotcache.redis.plugins.module_utils import dotenv_text
from ansible_collections.spotcache.redis.plugins.module_utils.laravel_layouts import LAYOUTS
from ansible_collections.spotcache.redis.plugins.module_utils.laravel_wishes import (
    DRIVERS,
    KEEP,
    PLACES,
    Inputs,
    wants_redis,
)


def problems(inputs: Inputs) -> Iterator[str]:
    """A sentence for everything that cannot work."""
    applications = inputs.get("laravel_env_applications") or []
    if not str(inputs.get("laravel_env_environment") or ""):
        yield "laravel_env_environment is empty: name the environment, such as stg."
    fallback = inputs.get("laravel_env_fallback") or ""
    if fallback not in ("", "file"):
        yield f'laravel_env_fallback is "{fallback}": use file, or leave it empty.'
    names = [str(application.get("name") or "") for application in applications]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f'laravel_env_applications contains the name "{name}" twice: give each application a name of its own.'
    broken = False
    for application in applications:
        for sentence in _application(inputs, application):
            broken = True
            yield f"laravel_env_applications, {application.get('name') or 'without a name'}: {sentence}"
    if not broken:
        yield from _connections(inputs)


def _application(inputs: Inputs, application: Inputs) -> Iterator[str]:
    place = application.get("place") or "host"
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", str(application.get("name") or "")):
        yield f'name is "{application.get("name") or ""}": use letters, digits and _ . - only.'
    part_of = application.get("part_of")
    if part_of and part_of not in [one.get("name") for one in inputs.get("laravel_env_applications") or []]:
        yield f'part_of is "{part_of}", and no application has that name: correct it.'
    if place not in PLACES:
        yield f'place is "{place}": use {", ".join(PLACES)}.'
    user = application.get("redis_user")
    if user and user not in [one.get("name") for one in inputs.get("laravel_env_redis_users") or []]:
        yield f'redis_user is "{user}", and redis_users has no such user: correct it, or add the user.'
    needed = {"host": ["path"], "container": ["path", "env_file", "container"], "ssm": ["parameter_path"]}
    for name in needed.get(str(place), []):
        value = str(application.get(name) or "")
        if not value:
            yield f"{name} is missing, which place {place} needs."
        elif name != "container" and not value.startswith("/"):
            yield f'{name} is "{value}": write it from the root on, beginning with /.'
    for name, kind in {"driver": application.get("driver"), **(application.get("drivers") or {})}.items():
        choices = (*DRIVERS, "auto" if name == "driver" else KEEP)
        if kind and kind not in choices:
            what = name if name == "driver" else f"the driver of {name}"
            yield f'{what} is "{kind}", which is unknown: use {" or ".join(choices)}.'
    for option in ("database", "session_database"):
        number = application.get(option)
        if number is not None and not re.fullmatch(r"\d{1,5}", str(number)):
            yield f'{option} is "{number}": write the number of a Redis database, 0 to 15 unless Redis has more.'
    layout = str(application.get("layout") or "")
    if layout and layout not in LAYOUTS:
        yield f'layout is "{layout}", which is unknown: use {" or ".join(LAYOUTS)}.'
    yield from _extra(application)


def _extra(application: Inputs) -> Iterator[str]:
    values, secrets = application.get("values") or {}, application.get("secrets") or {}
    removed = application.get("remove") or []
    for key in sorted(set(values) & set(secrets) | set(removed) & {*values, *secrets}):
        yield f"{key} stands in more than one of values, secrets and remove: leave it in one."
    for given in (values, secrets, dict.fromkeys(removed)):
        try:
            dotenv_text.check_values(given)
        except dotenv_text.Unwritable as error:
            yield f"{error}."


def _connections(inputs: Inputs) -> Iterator[str]:
    if not any(wants_redis(inputs, one) for one in inputs.get("laravel_env_applications") or []):
        return
    if not inputs.get("laravel_env_redis_host"):
        yield (
            "laravel_env_redis_host is empty, and applications are to use Redis: provision the environment first, or "
            "put it on files (-e laravel_env_fallback=file)."
        )
    for part in ("redis", "session_redis"):
        host, port = str(inputs.get(f"laravel_env_{part}_host") or ""), inputs.get(f"laravel_env_{part}_port")
        if re.fullmatch(r"[^:]+:\d*|\[.*\]:\d*", host):
            yield f'laravel_env_{part}_host is "{host}", which has a port in it: put that into laravel_env_{part}_port.'
        elif host and not re.fullmatch(r"[A-Za-z0-9._:-]+", host):
            yield f'laravel_env_{part}_host is "{host}": write a host name or an address, without tcp:// or blanks.'
        if (port or part == "redis") and not (re.fullmatch(r"\d{1,5}", str(port)) and 0 < int(str(port)) < 65536):
            yield f'laravel_env_{part}_port is "{port}": write a port, such as 6379.'
        try:
            dotenv_text.check_values({"PASSWORD": str(inputs.get(f"laravel_env_{part}_password") or "")})
        except dotenv_text.Unwritable as error:
            yield f"laravel_env_{part}_password: {str(error).replace('the value of PASSWORD', 'it')}."
