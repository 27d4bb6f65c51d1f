"""The client and the reporter of a drill: writes numbered keys while a host is lost, and tells what that came to."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
