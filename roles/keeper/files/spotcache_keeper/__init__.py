"""Backs up and restores the Redis of one host: knows Redis, EBS, S3 and the docker command, and nothing of Ansible."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
