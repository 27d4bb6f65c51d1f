"""What happens in a sandbox, told to those who asked: EventBridge's rules, SNS, Lambda's queues and retries.

moto keeps the records and SQS's queues. This module delivers: an event goes through the rules of the default bus to
SNS, SQS and Lambda, a message of a topic to its subscriptions, a message of a queue to the function mapped to it. Who
may send to whom is decided by the resource policies, as on AWS: what they do not allow does not arrive.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import logging
import queue
import re
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from moto.awslambda.models import LambdaBackend, LambdaFunction, lambda_backends
from moto.core.exceptions import JsonRESTError
from moto.events.models import EventsBackend, Rule, events_backends
from moto.events.utils import EventTemplateParser
from moto.sns.models import Subscription, sns_backends
from moto.sqs.exceptions import SQSException
from moto.sqs.models import Queue, SQSBackend, sqs_backends

from sandbox import alarms, iam, subscriptions
from sandbox.functions import Functions, Outcome, check_runtime

log = logging.getLogger("sandbox")

POLL_S = 0.2
AT_ONCE = 2  # invocations that one queue has at the same time
RATE = re.compile(r"^rate\((\d+) (minute|hour|day)s?\)$")
RATE_S = {"minute": 60, "hour": 3600, "day": 86400}


QUEUE_FORGOTTEN_S = 60  # for so long SQS makes no queue of a name that was deleted


class DeletedRecently(SQSException):
    """A queue of that name was deleted less than a minute ago."""

    def __init__(self) -> None:
        super().__init__(
            "AWS.SimpleQueueService.QueueDeletedRecently",
            "You must wait 60 seconds after deleting a queue before you can create another with the same name.",
        )


@dataclass
class Mail:
    """A message that a topic would have mailed."""

    to: str
    subject: str
    text: str
    time: str


def permits(policy: str | dict[str, Any] | None, service: str, action: str, source: str, account: str) -> bool:
    """Whether a resource policy lets an AWS service act on behalf of the object `source` (ARN)."""
    return iam.permits(policy, service, action, {"aws:SourceArn": source, "aws:SourceAccount": account})


def stamp(when: datetime | None = None) -> str:
    """A time as AWS's events have it."""
    return (when or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")


class Bus:
    """Deliveries of one sandbox."""

    def __init__(self, account: str, region: str, functions: Functions, retry_seconds: float = 1.0) -> None:
        self.account, self.region, self.functions = account, region, functions
        # AWS waits one and then two minutes before it tries an asynchronous invocation again.
        self.retry_seconds = retry_seconds
        self.mails: list[Mail] = []
        self.happened: list[dict[str, Any]] = []
        self.inbox: queue.Queue[Callable[[], None]] = queue.Queue()
        self.workers = ThreadPoolExecutor(8, thread_name_prefix="event")
        self.busy: dict[str, int] = {}
        self.fired: dict[str, float] = {}
        self.stopping = threading.Event()

    @property
    def queues(self) -> Any:
        """Moto's SQS."""
        return sqs_backends[self.account][self.region]

    def close_gaps(self) -> None:
        """Give moto what it lacks. Call it once."""
        self._events()
        self._topics()
        self._queues()
        self._lambda()

    def start(self) -> None:
        """Begin to deliver."""
        threading.Thread(target=self._deliver_all, daemon=True, name="bus").start()
        threading.Thread(target=self._poll_all, daemon=True, name="mappings").start()

    def close(self) -> None:
        """Stop delivering and end the functions' processes."""
        self.stopping.set()
        self.functions.close()

    # -- in ----------------------------------------------------------------------------------------------------------

    def put_event(self, source: str, kind: str, detail: dict[str, Any], resources: list[str]) -> None:
        """Something happened in an AWS service; returns at once."""
        self.put(
            {
                "version": "0",
                "id": str(uuid.uuid4()),
                "detail-type": kind,
                "source": source,
                "account": self.account,
                "time": stamp(),
                "region": self.region,
                "resources": resources,
                "detail": detail,
            }
        )

    def put(self, event: dict[str, Any]) -> None:
        """Route a whole event; returns at once. The same event put twice arrives twice, as it may on AWS."""
        log.info("event %s %s", event["detail-type"], json.dumps(event["detail"])[:200])
        self.happened.append(event)
        del self.happened[:-500]
        self.inbox.put(lambda: self._route(event))

    def _deliver_all(self) -> None:
        while not self.stopping.is_set():
            try:
                self.inbox.get(timeout=1)()
            except queue.Empty:
                continue
            except Exception:
                log.exception("delivery")

    def _route(self, event: dict[str, Any]) -> None:
        bus = events_backends[self.account][self.region].event_buses.get("default")
        for rule in list(bus.rules.values()) if bus else []:
            if rule.state == "ENABLED" and rule.event_pattern.get_pattern() and rule.event_pattern.matches_event(event):
                self.to_targets(rule, event)

    # -- EventBridge -------------------------------------------------------------------------------------------------

    def _events(self) -> None:
        bus = self
        put = EventsBackend.put_events

        def send_to_targets(rule: Any, original_event: dict[str, Any], transform_input: bool = True) -> None:
            """A user's own event, from PutEvents."""
            event = {key: value for key, value in original_event.items() if key != "ingestion-time"}
            if not isinstance(event["time"], str):
                event["time"] = stamp(datetime.fromtimestamp(float(event["time"]), UTC))
            pattern = rule.event_pattern
            if rule.state == "ENABLED" and pattern.get_pattern() and pattern.matches_event(event):
                bus.inbox.put(lambda: bus.to_targets(rule, event))

        def put_events(backend: Any, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
            refused = {
                "ErrorCode": "NotAuthorizedForSourceException",
                "ErrorMessage": "Not authorized for the source.",
            }
            fine = [event for event in events if not str(event.get("Source", "")).startswith("aws.")]
            answers = iter(put(backend, fine))
            return [next(answers) if event in fine else refused for event in events]

        Rule.send_to_targets = send_to_targets
        EventsBackend.put_events = put_events

    def to_targets(self, rule: Any, event: dict[str, Any]) -> None:
        """Hand an event to each target of a rule; what cannot be delivered goes to the target's dead-letter queue."""
        for target in list(rule.targets):
            body = self._input(target, event)
            reason = self._to_target(rule.arn, target["Arn"], body)
            if reason:
                log.warning("rule %s cannot deliver to %s: %s", rule.name, target["Arn"], reason)
                dead = (target.get("DeadLetterConfig") or {}).get("Arn")
                if dead:
                    self._dead(dead, "events.amazonaws.com", rule.arn, body, {"ERROR_CODE": "NO_PERMISSIONS"})

    def _input(self, target: dict[str, Any], event: dict[str, Any]) -> str:
        if target.get("Input"):
            return str(target["Input"])
        if target.get("InputTransformer"):
            transformer = target["InputTransformer"]
            timed = {**event, "ingestion-time": time.time()}
            template, paths = transformer["InputTemplate"], transformer.get("InputPathsMap", {})
            return json.dumps(EventTemplateParser.parse(template, paths, timed))
        if target.get("InputPath", "$") not in ("", "$"):
            value: Any = event
            for part in target["InputPath"].removeprefix("$.").split("."):
                value = value[part]
            return json.dumps(value)
        return json.dumps(event)

    def _to_target(self, rule: str, arn: str, body: str) -> str:
        service = arn.split(":")[2]
        if service == "lambda":
            function = lambda_backends[self.account][self.region].get_function_by_arn(arn)
            if function is None:
                return "there is no such function"
            if not self._may_invoke(function, "events.amazonaws.com", rule):
                return "the function's policy does not allow events.amazonaws.com"
            self.invoke_later(function, json.loads(body))
            return ""
        if service == "sqs":
            return self._to_queue(arn, body, "events.amazonaws.com", rule)
        if service == "sns":
            topic = sns_backends[self.account][self.region].topics.get(arn)
            if topic is None:
                return "there is no such topic"
            # It says nothing of itself there, so that no condition holds: "You can't use Condition blocks in Amazon SNS
            # topic policies for EventBridge" (Amazon EventBridge user guide, Using resource-based policies).
            if not iam.permits(topic.policy, "events.amazonaws.com", "sns:Publish", {}):
                return "the topic's policy does not allow events.amazonaws.com"
            topic.publish(body)
            return ""
        return f"this sandbox has no targets of {service}"

    def _may_invoke(self, function: Any, service: str, source: str) -> bool:
        policy = {"Statement": function.policy.statements}
        return permits(policy, service, "lambda:InvokeFunction", source, self.account)

    def _to_queue(
        self, arn: str, body: str, service: str, source: str, attributes: dict[str, str] | None = None
    ) -> str:
        target = self.queues.queues.get(arn.rsplit(":", 1)[-1])
        if target is None:
            return "there is no such queue"
        if service != "lambda.amazonaws.com" and not permits(
            target.policy, service, "sqs:SendMessage", source, self.account
        ):
            return f"the queue's policy does not allow {service}"
        typed = {key: {"DataType": "String", "StringValue": value} for key, value in (attributes or {}).items()}
        self.queues.send_message(target.name, body, message_attributes=typed)
        return ""

    def _dead(self, arn: str, service: str, source: str, body: str, attributes: dict[str, str]) -> None:
        if ":sns:" in arn:
            topic = sns_backends[self.account][self.region].topics.get(arn)
            reason = "" if topic else "there is no such topic"
            if topic:
                topic.publish(body)
        else:
            reason = self._to_queue(arn, body, service, source, attributes)
        if reason:
            log.warning("dead letter lost, %s: %s", arn, reason)

    def tick(self, now: float) -> None:
        """Fire the rules that have a rate; `now` is the sandbox's clock."""
        self.functions.tidy()
        alarms.look(self.account, self.region)
        subscriptions.forget(sns_backends[self.account][self.region].subscriptions, now)
        bus = events_backends[self.account][self.region].event_buses.get("default")
        for rule in list(bus.rules.values()) if bus else []:
            match = RATE.match(rule.scheduled_expression or "")
            if rule.state != "ENABLED" or match is None:
                continue
            due = self.fired.setdefault(rule.arn, now) + int(match[1]) * RATE_S[match[2]]
            if now >= due:
                self.fired[rule.arn] = now
                self.fire(rule)

    def fire(self, rule: Any) -> None:
        """A rule's time has come."""
        event = {
            "version": "0",
            "id": str(uuid.uuid4()),
            "detail-type": "Scheduled Event",
            "source": "aws.events",
            "account": self.account,
            "time": stamp(),
            "region": self.region,
            "resources": [rule.arn],
            "detail": {},
        }
        self.inbox.put(lambda: self.to_targets(rule, event))

    # -- SNS ---------------------------------------------------------------------------------------------------------

    def _topics(self) -> None:
        bus = self

        def publish(subscription: Any, message: str, message_id: str, subject: str | None = None, **more: Any) -> None:
            if subscriptions.is_pending(subscription):
                return
            matcher = subscription._filter_policy_matcher
            if matcher is not None and not matcher.matches(more.get("message_attributes"), message):
                return
            if more.get("message_structure") == "json":
                message = subscription._parse_message_structure(message, subscription.protocol)
            bus.to_subscription(subscription, message, message_id, subject, more.get("message_attributes"))

        Subscription.publish = publish
        subscriptions.close_gaps(self._ask)

    def _ask(self, subscription: Any) -> None:
        """Mail the question whether somebody wants a topic's mail."""
        topic = subscription.topic.arn
        text = (
            f"You have chosen to subscribe to the topic:\n{topic}\n\nTo confirm this subscription:\n"
            f"aws sns confirm-subscription --topic-arn {topic} --token {subscription.token}\n"
        )
        self.mails.append(Mail(subscription.endpoint, "AWS Notification - Subscription Confirmation", text, stamp()))

    def _queues(self) -> None:
        original = Queue._set_attributes

        def set_attributes(queue: Any, attributes: dict[str, Any], now: float | None = None) -> None:
            # What is not set stays as it is; moto would forget the policy.
            original(
                queue, {"Policy": queue.policy, **attributes} if hasattr(queue, "_policy_json") else attributes, now
            )

        Queue._set_attributes = set_attributes
        create, delete = SQSBackend.create_queue, SQSBackend.delete_queue
        deleted: dict[tuple[str, str], float] = {}

        def create_queue(backend: Any, name: str, *arguments: Any, **named: Any) -> Any:
            since = deleted.get((backend.region_name, name))
            if since is not None and time.monotonic() - since < QUEUE_FORGOTTEN_S:
                raise DeletedRecently
            return create(backend, name, *arguments, **named)

        def delete_queue(backend: Any, queue_name: str) -> None:
            delete(backend, queue_name)
            deleted[backend.region_name, queue_name] = time.monotonic()

        SQSBackend.create_queue = create_queue
        SQSBackend.delete_queue = delete_queue

    def to_subscription(
        self, subscription: Any, message: str, message_id: str, subject: str | None, attributes: dict[str, Any] | None
    ) -> None:
        """Deliver one message of a topic."""
        topic, service = subscription.topic.arn, "sns.amazonaws.com"
        notice = {
            "Type": "Notification",
            "MessageId": message_id,
            "TopicArn": topic,
            **({"Subject": subject} if subject else {}),
            "Message": message,
            "Timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
            "SignatureVersion": "1",
            **({"MessageAttributes": attributes} if attributes else {}),
        }
        reason = ""
        if subscription.protocol == "sqs":
            raw = str(subscription.attributes.get("RawMessageDelivery", "false")).lower() == "true"
            reason = self._to_queue(subscription.endpoint, message if raw else json.dumps(notice), service, topic)
        elif subscription.protocol == "lambda":
            function = lambda_backends[self.account][self.region].get_function_by_arn(subscription.endpoint)
            if function is None or not self._may_invoke(function, service, topic):
                reason = "there is no such function, or its policy does not allow sns.amazonaws.com"
            else:
                record = {
                    "EventVersion": "1.0",
                    "EventSubscriptionArn": subscription.arn,
                    "EventSource": "aws:sns",
                    "Sns": {"Subject": None, "MessageAttributes": {}, **notice},
                }
                self.invoke_later(function, {"Records": [record]})
        elif subscription.protocol in ("email", "email-json"):
            self.mails.append(Mail(subscription.endpoint, subject or "AWS Notification Message", message, stamp()))
        else:
            reason = f"this sandbox has no subscriptions of {subscription.protocol}"
        if reason:
            log.warning("topic %s cannot deliver to %s: %s", topic, subscription.endpoint, reason)

    # -- Lambda ------------------------------------------------------------------------------------------------------

    def _lambda(self) -> None:
        bus = self
        begin, configure = LambdaFunction.__init__, LambdaFunction.update_configuration
        describe = LambdaFunction.get_configuration
        create = LambdaBackend.create_event_source_mapping

        def init(function: Any, account_id: str, spec: dict[str, Any], *rest: Any, **more: Any) -> None:
            check_runtime(str(spec.get("Runtime")))
            function.dead_letters = spec.get("DeadLetterConfig") or {}
            begin(function, account_id, spec, *rest, **more)

        def update_configuration(function: Any, config_updates: dict[str, Any]) -> Any:
            if "Runtime" in config_updates:
                check_runtime(str(config_updates["Runtime"]))
            if "DeadLetterConfig" in config_updates:
                function.dead_letters = config_updates["DeadLetterConfig"] or {}
            return configure(function, config_updates)

        def get_configuration(function: Any, on_create: bool = False) -> Any:
            dead = function.dead_letters.get("TargetArn")
            return describe(function, on_create) | ({"DeadLetterConfig": {"TargetArn": dead}} if dead else {})

        def invoke(function: Any, body: str, request_headers: Any, response_headers: Any) -> str | bytes:
            event = json.loads(body) if body else {}
            kind = request_headers.get("X-Amz-Invocation-Type") or request_headers.get("x-amz-invocation-type")
            if kind == "Event":
                bus.invoke_later(function, event)
                return ""
            if kind == "DryRun":
                return ""
            outcome = bus.functions.invoke(function, event)
            if outcome.failed:
                response_headers["x-amz-function-error"] = "Unhandled"
            return json.dumps(outcome.payload).encode()

        def create_event_source_mapping(backend: Any, spec: dict[str, Any]) -> Any:
            function = backend._lambdas.get_function_by_name_or_arn_with_qualifier(spec.get("FunctionName", ""))
            bus.check_mapping(function, spec["EventSourceArn"])
            mapping = create(backend, spec)
            # The queue would call the function itself, while the sender waits.
            for one in bus.queues.queues.values():
                one.lambda_event_source_mappings.clear()
            return mapping

        LambdaFunction.__init__ = init
        LambdaFunction.update_configuration = update_configuration
        LambdaFunction.get_configuration = get_configuration
        LambdaFunction.invoke = invoke
        LambdaBackend.create_event_source_mapping = create_event_source_mapping

    def role_may(
        self, role_arn: str, action: str, parameters: dict[str, Any], context: dict[str, Any] | None = None
    ) -> bool:
        """Whether a role may make a request."""
        return iam.role_may(self.account, self.region, role_arn, action, parameters, context)

    def check_mapping(self, function: Any, source: str) -> None:
        """AWS refuses a mapping whose function's role cannot use the queue, and one that would see messages twice."""
        for action in ("ReceiveMessage", "DeleteMessage", "GetQueueAttributes"):
            if not self.role_may(function.role, f"sqs:{action}", {"QueueName": source.rsplit(":", 1)[-1]}):
                raise JsonRESTError(
                    "InvalidParameterValueException",
                    f"The provided execution role does not have permissions to call {action} on SQS",
                )
        target = self.queues.queues.get(source.rsplit(":", 1)[-1])
        if target is not None and int(target.visibility_timeout) < int(function.timeout):
            raise JsonRESTError(
                "InvalidParameterValueException",
                f"Queue visibility timeout: {target.visibility_timeout} seconds is less than "
                f"Function timeout: {function.timeout} seconds",
            )

    def invoke_later(self, function: Any, event: Any) -> None:
        """An asynchronous invocation: tried again twice, then given to the dead-letter queue or destination."""
        self.workers.submit(self._attempts, function, event)

    def _attempts(self, function: Any, event: Any) -> None:
        try:
            config: dict[str, Any] = next((c.config for c in function.event_invoke_config), {})
            tries = 1 + int(config.get("MaximumRetryAttempts", 2))
            outcome = Outcome(None, True, "")
            for attempt in range(tries):
                if attempt and self.stopping.wait(self.retry_seconds * attempt):
                    return
                outcome = self.functions.invoke(function, event)
                if not outcome.failed:
                    return
            dead = function.dead_letters.get("TargetArn")
            if dead:
                told = {
                    "RequestID": outcome.request,
                    "ErrorCode": "200",
                    "ErrorMessage": str((outcome.payload or {}).get("errorMessage", ""))[:1000],
                }
                self._dead(dead, "lambda.amazonaws.com", function.function_arn, json.dumps(event), told)
            else:
                log.warning("function %s failed %d times; the event is lost", function.function_name, tries)
        except Exception:
            log.exception("function %s", function.function_name)

    def _poll_all(self) -> None:
        while not self.stopping.wait(POLL_S):
            for mapping in list(lambda_backends[self.account][self.region]._event_source_mappings.values()):
                try:
                    self._poll(mapping)
                except Exception:
                    log.exception("mapping %s", mapping.event_source_arn)

    def _poll(self, mapping: Any) -> None:
        name = mapping.event_source_arn.rsplit(":", 1)[-1]
        target = self.queues.queues.get(name)
        function = lambda_backends[self.account][self.region].get_function_by_arn(mapping.function_arn)
        most = int((mapping.scaling_config or {}).get("MaximumConcurrency", AT_ONCE))
        if not mapping.enabled or target is None or function is None or self.busy.get(mapping.uuid, 0) >= most:
            return
        messages = self.queues.receive_message(name, mapping.batch_size, 0, int(target.visibility_timeout))
        if messages:
            self.busy[mapping.uuid] = self.busy.get(mapping.uuid, 0) + 1
            self.workers.submit(self._batch, mapping, function, name, messages)

    def _batch(self, mapping: Any, function: Any, name: str, messages: list[Any]) -> None:
        try:
            records = [
                {
                    "messageId": m.id,
                    "receiptHandle": m.receipt_handle,
                    "body": m.body,
                    "attributes": {
                        "ApproximateReceiveCount": str(m.approximate_receive_count),
                        "SentTimestamp": str(int(m.sent_timestamp or 0)),
                        "ApproximateFirstReceiveTimestamp": str(int(m.approximate_first_receive_timestamp or 0)),
                    },
                    "messageAttributes": {},
                    "eventSource": "aws:sqs",
                    "eventSourceARN": mapping.event_source_arn,
                    "awsRegion": self.region,
                }
                for m in messages
            ]
            outcome = self.functions.invoke(function, {"Records": records})
            if outcome.failed:
                return
            kept: set[str] = set()
            if "ReportBatchItemFailures" in (mapping.function_response_types or []):
                failures = (outcome.payload or {}).get("batchItemFailures") or []
                kept = {str(one["itemIdentifier"]) for one in failures}
            for message in messages:
                if message.id not in kept:
                    self.queues.delete_message(name, message.receipt_handle)
        except Exception:
            log.exception("queue %s", name)
        finally:
            self.busy[mapping.uuid] -= 1
