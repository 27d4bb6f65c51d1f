"""What a Redis on AWS costs a month, each way to have it: model, prices, advice, and what an account pays now."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
