"""Options of modules that start PHP where a Laravel application lives."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations


class ModuleDocFragment:
    """Options of modules that start PHP where a Laravel application lives."""

    DOCUMENTATION = r"""
options:
  path:
    description: The application's directory as PHP sees it, with C(artisan) in it.
    type: str
    required: true
  container:
    description: Container of this host in which the application lives. Empty means that it lives on the host itself.
    type: str
    default: ''
  user:
    description: User that PHP runs as. Files that root makes cannot be written by php-fpm afterwards.
    type: str
    default: www-data
  php:
    description: PHP for the command line.
    type: str
    default: php
"""
