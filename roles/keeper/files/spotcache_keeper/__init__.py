"""Saves and restores the Redis of one host: knows Redis, EBS, S3 and the docker command, and nothing of Ansible."""
