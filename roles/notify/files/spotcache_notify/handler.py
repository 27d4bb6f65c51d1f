# SPDX-License-Identifier: GPL-3.0-or-later
"""What Lambda calls: one batch of the queue in, the messages that must come again out."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from spotcache_notify.delivery import Claim, Later, backoff, deliver, post
from spotcache_notify.messages import Message, for_mail, for_slack, read

# So long is a webhook remembered: whoever replaces it need not restart anything.
WEBHOOK_S = 300
CONFIG = Config(connect_timeout=3, read_timeout=8, retries={"max_attempts": 3, "mode": "standard"})


def log(text: str, **more: Any) -> None:
    """A line for the log."""
    print(json.dumps({"message": text, **more}))


class Table:
    """Claims in a DynamoDB table."""

    def __init__(self, client: Any, name: str) -> None:
        self.client, self.name = client, name

    def claim(self, key: str, mine: Claim, replace: Any, keep_s: int) -> Claim | None:
        """Put a claim where there is none, or one that may be replaced; otherwise hand back what stands there."""
        condition: dict[str, Any] = {"ConditionExpression": "attribute_not_exists(id)"}
        while True:
            try:
                self.client.put_item(TableName=self.name, Item=self._item(key, mine, keep_s), **condition)
            except self.client.exceptions.ConditionalCheckFailedException:
                found = self.client.get_item(TableName=self.name, Key={"id": {"S": key}}, ConsistentRead=True)
                item = found.get("Item")
                if item is None:
                    condition = {"ConditionExpression": "attribute_not_exists(id)"}
                    continue
                standing = Claim(item["owner"]["S"], item["sent"]["BOOL"], float(item["at"]["N"]))
                if not replace(standing):
                    return standing
                condition = {
                    "ConditionExpression": "#o = :o AND #a = :a",
                    "ExpressionAttributeNames": {"#o": "owner", "#a": "at"},
                    "ExpressionAttributeValues": {":o": item["owner"], ":a": item["at"]},
                }
            else:
                return None

    def sent(self, key: str, mine: Claim, keep_s: int) -> None:
        """Remember that the message went out."""
        self.client.put_item(TableName=self.name, Item=self._item(key, mine, keep_s))

    def _item(self, key: str, claim: Claim, keep_s: int) -> dict[str, Any]:
        return {
            "id": {"S": key},
            "owner": {"S": claim.owner},
            "sent": {"BOOL": claim.sent},
            "at": {"N": f"{claim.at:.3f}"},
            "expires": {"N": str(int(claim.at + keep_s))},
        }


class Notifier:
    """Where messages go, and which of them are this environment's."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.variables = environment
        self.environment = environment["SPOTCACHE_ENVIRONMENT"]
        self.table = Table(boto3.client("dynamodb", config=CONFIG), environment["TABLE"])
        self.ec2, self.ssm, self.sns, self.sqs = (boto3.client(s, config=CONFIG) for s in ("ec2", "ssm", "sns", "sqs"))
        self.webhook, self.asked = "", 0.0
        self.queue = self.sqs.get_queue_url(QueueName=environment["QUEUE"])["QueueUrl"]

    def ours(self, message: Message, first_try: bool) -> bool:
        """Whether the message is about something of this environment; AWS's events name ids, not tags.

        What has vanished was looked at by the first try already: a later one must not lose the message.
        """
        if message.about is None:
            return True
        kind, name = message.about
        try:
            if kind == "instance":
                rows = self.ec2.describe_instances(InstanceIds=[name])["Reservations"]
                tags = [tag for row in rows for one in row["Instances"] for tag in one.get("Tags", [])]
            else:
                rows = self.ec2.describe_snapshots(SnapshotIds=[name])["Snapshots"]
                tags = [tag for row in rows for tag in row.get("Tags", [])]
        except ClientError as error:
            if ".NotFound" in error.response["Error"]["Code"]:
                return not first_try
            raise
        return {"Key": "spotcache:environment", "Value": self.environment} in tags

    def send(self, message: Message) -> None:
        """Tell notifier. Raises Later."""
        if self.variables["TO"] == "email":
            subject, text = for_mail(message)
            self.sns.publish(TopicArn=self.variables["PEOPLE_TOPIC"], Subject=subject, Message=text)
            return
        if time.monotonic() - self.asked > WEBHOOK_S or not self.webhook:
            found = self.ssm.get_parameter(Name=self.variables["WEBHOOK_PARAMETER"], WithDecryption=True)
            self.webhook, self.asked = found["Parameter"]["Value"].strip(), time.monotonic()
        try:
            post(self.webhook, for_slack(message))
        except Later:
            self.webhook = ""
            raise

    def later(self, record: dict[str, Any], seconds: int) -> None:
        """Let a message of the queue come again when it makes sense, and not before."""
        self.sqs.change_message_visibility(
            QueueUrl=self.queue, ReceiptHandle=record["receiptHandle"], VisibilityTimeout=seconds
        )


notifier: Notifier | None = None


def handle(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 - Lambda passes it
    """Deliver a batch; what could not be delivered is named and stays in the queue."""
    global notifier
    if notifier is None:
        notifier = Notifier(dict(os.environ))
    failures = []
    for record in event["Records"]:
        try:
            one(notifier, record)
        except Later as later:
            tries = int(record["attributes"].get("ApproximateReceiveCount", 1))
            seconds = later.seconds or backoff(tries)
            log(str(later), tries=tries, again_in_s=seconds)
            notifier.later(record, seconds)
            failures.append({"itemIdentifier": record["messageId"]})
        except (BotoCoreError, ClientError) as error:
            log(f"AWS refused or did not answer: {error}")
            failures.append({"itemIdentifier": record["messageId"]})
    return {"batchItemFailures": failures}


def one(to: Notifier, record: dict[str, Any]) -> None:
    """Deliver one message of the queue. Raises Later, or what boto3 raises."""
    message = read(record["body"], to.environment, to.variables.get("TIME_ZONE", "UTC"))
    if not to.ours(message, int(record["attributes"].get("ApproximateReceiveCount", 1)) == 1):
        log("of another environment", title=message.title)
        return
    if deliver(message, record["messageId"], to.table, to.send):
        log("delivered", title=message.title, key=message.key)
    else:
        log("told before", title=message.title, key=message.key)
