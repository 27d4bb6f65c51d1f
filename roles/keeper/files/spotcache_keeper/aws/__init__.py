"""AWS: which names it has, signed requests, the metadata service, notifications."""
