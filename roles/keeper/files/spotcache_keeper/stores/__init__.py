"""Where copies of the data lie: the interface of a store, and the data volume, S3 and EBS snapshots."""
