"""EC2's data source with the platform given instead of guessed.

In a container cloud-init ignores DMI data, takes the platform for unknown and then asks the metadata service without a
token, which a service that enforces IMDSv2 refuses.
"""

from cloudinit import sources
from cloudinit.sources import DataSourceEc2 as ec2


class DataSourceSandbox(ec2.DataSourceEc2):
    """Asks the metadata service as an instance on AWS does."""

    def _get_cloud_name(self):
        return ec2.CloudNames.AWS


datasources = [(DataSourceSandbox, (sources.DEP_FILESYSTEM, sources.DEP_NETWORK))]


def get_datasource_list(depends):
    """Return the data sources that need exactly these dependencies."""
    return sources.list_from_depends(depends, datasources)
