"""CloudWatch alarms on queues: they change their state by what is in the queue, and tell their topics.

Other metrics have no data here, and their alarms stay as they are.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import logging
import operator
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from moto.cloudwatch.models import cloudwatch_backends
from moto.sns.models import sns_backends
from moto.sqs.models import sqs_backends

from sandbox import iam

log = logging.getLogger("sandbox")

METRIC: Final = ("AWS/SQS", "ApproximateNumberOfMessagesVisible")
SERVICE: Final = "cloudwatch.amazonaws.com"
COMPARISONS: Final[dict[str, Callable[[float, float], bool]]] = {
    "GreaterThanThreshold": operator.gt,
    "GreaterThanOrEqualToThreshold": operator.ge,
    "LessThanThreshold": operator.lt,
    "LessThanOrEqualToThreshold": operator.le,
}


def look(account: str, region: str) -> None:
    """Decide every alarm on a queue, and carry out the actions of those that change."""
    for alarm in list(cloudwatch_backends[account][region].alarms.values()):
        if (alarm.namespace, alarm.metric_name) != METRIC or alarm.comparison_operator not in COMPARISONS:
            continue
        name = next((one.value for one in alarm.dimensions if one.name == "QueueName"), "")
        queue = sqs_backends[account][region].queues.get(name)
        # A queue that is not there has no data; what is made here takes that for no breach.
        visible = float(queue.approximate_number_of_messages) if queue is not None else 0.0
        breaching = COMPARISONS[alarm.comparison_operator](visible, float(alarm.threshold))
        state = "ALARM" if breaching else "OK"
        if state != alarm.state_value:
            _change(alarm, state, visible, account, region)


def _change(alarm: Any, state: str, value: float, account: str, region: str) -> None:
    before, now = alarm.state_value, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f%z")
    beyond = "was" if state == "ALARM" else "was not"
    reason = (
        f"Threshold Crossed: 1 out of the last 1 datapoints [{value}] {beyond} beyond the threshold "
        f"({alarm.comparison_operator} {alarm.threshold})."
    )
    alarm.update_state(reason, "{}", state)
    log.info("alarm %s is %s", alarm.name, state)
    told = {
        "AlarmName": alarm.name,
        "AlarmDescription": alarm.description,
        "AWSAccountId": account,
        "NewStateValue": state,
        "NewStateReason": reason,
        "StateChangeTime": now,
        "Region": region,
        "AlarmArn": alarm.alarm_arn,
        "OldStateValue": before,
        "Trigger": {
            "MetricName": alarm.metric_name,
            "Namespace": alarm.namespace,
            "Statistic": str(alarm.statistic).upper(),
            "Dimensions": [{"name": one.name, "value": one.value} for one in alarm.dimensions],
            "Period": alarm.period,
            "EvaluationPeriods": alarm.evaluation_periods,
            "ComparisonOperator": alarm.comparison_operator,
            "Threshold": alarm.threshold,
        },
    }
    actions = alarm.alarm_actions if state == "ALARM" else alarm.ok_actions
    for arn in (actions or []) if alarm.actions_enabled else []:
        # The policy that a topic has by itself asks for the owner, which CloudWatch gives.
        context = {"aws:SourceArn": alarm.alarm_arn, "aws:SourceAccount": account, "aws:SourceOwner": account}
        topic = sns_backends[account][region].topics.get(arn)
        if topic is None or not iam.permits(topic.policy, SERVICE, "sns:Publish", context):
            log.warning(
                "alarm %s cannot tell %s: there is no such topic, or its policy does not let it", alarm.name, arn
            )
            continue
        topic.publish(json.dumps(told), subject=f'{state}: "{alarm.name}" in {region}')
