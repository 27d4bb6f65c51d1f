"""EC2 on one machine: what the demo, the tests and a rehearsal run against instead of an AWS account.

GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""
