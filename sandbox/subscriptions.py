"""Subscriptions of mail addresses to SNS topics: they wait until whoever has the mailbox confirms them."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import secrets
from collections.abc import Callable, MutableMapping
from typing import Any, Final

from moto.core.responses import ActionResult
from moto.sns.exceptions import SNSInvalidParameter
from moto.sns.responses import SNSResponse

MAILED: Final = ("email", "email-json")
PATIENCE_S: Final = 3 * 86400  # SNS forgets a subscription that nobody has confirmed by then
PENDING: Final = "PendingConfirmation"  # stands in the ARN's place in lists


def is_pending(subscription: Any) -> bool:
    """Whether a subscription still has to be confirmed."""
    return subscription.protocol in MAILED and not subscription.confirmed


def forget(subscriptions: MutableMapping[str, Any], now: float) -> None:
    """Drop what nobody confirmed in time.

    Args:
        subscriptions: moto's records, by ARN.
        now: seconds since the epoch, by the sandbox's clock.
    """
    for arn, one in list(subscriptions.items()):
        if is_pending(one) and now - one.__dict__.setdefault("asked", now) > PATIENCE_S:
            subscriptions.pop(arn, None)


def close_gaps(mail: Callable[[Any], None]) -> None:
    """Have moto's SNS ask for a confirmation. Call it once.

    Args:
        mail: sends the question about a subscription, whose `token` is the answer.
    """
    ask, stop = SNSResponse.subscribe, SNSResponse.unsubscribe

    def subscribe(response: Any) -> Any:
        answer = ask(response)
        subscription = response.backend.subscriptions[answer.result["SubscriptionArn"]]
        if not is_pending(subscription):
            return answer
        subscription.attributes[PENDING] = True
        subscription.token = secrets.token_hex(32)
        mail(subscription)
        shown = response._get_bool_param("ReturnSubscriptionArn", False)
        return answer if shown else ActionResult({"SubscriptionArn": "pending confirmation"})

    def confirm_subscription(response: Any) -> Any:
        topic, token = response._get_param("TopicArn"), response._get_param("Token")
        for one in response.backend.subscriptions.values():
            if one.topic.arn == topic and token and getattr(one, "token", "") == token:
                one.confirmed, one.attributes[PENDING] = True, False
                return ActionResult({"SubscriptionArn": one.arn})
        raise SNSInvalidParameter("Invalid parameter: Token")

    def unsubscribe(response: Any) -> Any:
        arn = str(response._get_param("SubscriptionArn"))
        if not arn.startswith("arn:"):
            raise SNSInvalidParameter(
                "Invalid parameter: SubscriptionArn Reason: An ARN must have at least 6 elements, not 1"
            )
        one = response.backend.subscriptions.get(arn)
        if one is not None and is_pending(one):
            raise SNSInvalidParameter("Invalid parameter: SubscriptionArn Reason: the subscription is not confirmed")
        return stop(response)

    def listed(name: str) -> Callable[[Any], Any]:
        before = getattr(SNSResponse, name)

        def patched(response: Any) -> Any:
            answer = before(response)
            answer.result["Subscriptions"] = [
                {
                    "SubscriptionArn": PENDING if is_pending(one) else one.arn,
                    "Owner": one.owner,
                    "Protocol": one.protocol,
                    "Endpoint": one.endpoint,
                    "TopicArn": one.topic.arn,
                }
                for one in answer.result["Subscriptions"]
            ]
            return answer

        return patched

    SNSResponse.subscribe = subscribe
    SNSResponse.confirm_subscription = confirm_subscription
    SNSResponse.unsubscribe = unsubscribe
    for name in ("list_subscriptions", "list_subscriptions_by_topic"):
        setattr(SNSResponse, name, listed(name))
