"""SSM's Run Command and Session Manager, really run on the hosts of a sandbox."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import secrets
import shlex
import socket
import subprocess
import threading
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from moto.core.exceptions import JsonRESTError
from moto.core.responses import ActionResult
from moto.ssm.models import SimpleSystemManagerBackend
from moto.ssm.responses import SimpleSystemManagerResponse

from sandbox import container
from sandbox.cloud import Cloud

OUTPUT_LIMIT = 24_000  # characters of standard output that GetCommandInvocation gives
SESSION_DOCUMENTS = ("AWS-StartSSHSession", "AWS-StartPortForwardingSession", "SSM-SessionManagerRunShell", "")


class Invocation:
    """One command on one host."""

    def __init__(self, command: Command, instance_id: str) -> None:
        self.command, self.instance_id = command, instance_id
        self.status, self.code = "Pending", -1
        self.out = self.err = ""
        self.begun: datetime | None = None
        self.ended: datetime | None = None

    def answer(self) -> dict[str, Any]:
        """The shape of GetCommandInvocation's answer."""
        elapsed = (self.ended - self.begun).total_seconds() if self.begun and self.ended else 0.0
        return {
            "CommandId": self.command.id,
            "InstanceId": self.instance_id,
            "Comment": self.command.comment,
            "DocumentName": self.command.document,
            "PluginName": "aws:runShellScript",
            "ResponseCode": self.code,
            "ExecutionStartDateTime": self.begun.isoformat() if self.begun else "",
            "ExecutionElapsedTime": f"PT{elapsed:.3f}S",
            "ExecutionEndDateTime": self.ended.isoformat() if self.ended else "",
            "Status": self.status,
            "StatusDetails": self.status,
            "StandardOutputContent": self.out[:OUTPUT_LIMIT],
            "StandardErrorContent": self.err[:OUTPUT_LIMIT],
        }

    def listed(self) -> dict[str, Any]:
        """The shape of ListCommandInvocations' entries."""
        plugin = {
            "Name": "aws:runShellScript",
            "Status": self.status,
            "ResponseCode": self.code,
            "Output": self.out[:2500],
        }
        return {
            "CommandId": self.command.id,
            "InstanceId": self.instance_id,
            "DocumentName": self.command.document,
            "RequestedDateTime": self.command.asked.timestamp(),
            "Status": self.status,
            "StatusDetails": self.status,
            "CommandPlugins": [plugin],
        }


class Command:
    """One SendCommand."""

    def __init__(
        self, document: str, comment: str, timeout: int, parameters: dict[str, list[str]], ids: list[str]
    ) -> None:
        self.id = str(uuid.uuid4())
        self.document, self.comment, self.timeout, self.parameters = document, comment, timeout, parameters
        self.asked = datetime.now(UTC)
        self.invocations = [Invocation(self, instance_id) for instance_id in ids]

    def answer(self) -> dict[str, Any]:
        """The shape of SendCommand's and ListCommands' answer."""
        states = [i.status for i in self.invocations]
        running = any(s in ("Pending", "InProgress") for s in states)
        status = "InProgress" if running else "Failed" if any(s != "Success" for s in states) else "Success"
        return {
            "CommandId": self.id,
            "DocumentName": self.document,
            "Comment": self.comment,
            "ExpiresAfter": (self.asked + timedelta(seconds=self.timeout)).timestamp(),
            "Parameters": self.parameters,
            "InstanceIds": [i.instance_id for i in self.invocations],
            "RequestedDateTime": self.asked.timestamp(),
            "Status": status,
            "StatusDetails": status,
            "TargetCount": len(states),
            "CompletedCount": sum(s not in ("Pending", "InProgress") for s in states),
            "ErrorCount": sum(s in ("Failed", "TimedOut") for s in states),
        }


class Ssm:
    """Run Command and sessions for one sandbox."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.commands: dict[str, Command] = {}
        self.sessions: dict[str, tuple[str, int]] = {}
        self.listener: socket.socket | None = None

    def close_gaps(self) -> None:
        """Give moto's SSM what it lacks."""
        ssm = self

        def send_command(backend: Any, **kwargs: Any) -> Any:
            return ssm.send(**kwargs)

        def get_command_invocation(
            backend: Any, command_id: str, instance_id: str, plugin: str | None
        ) -> dict[str, Any]:
            command = ssm.commands.get(command_id)
            for invocation in command.invocations if command else []:
                if invocation.instance_id == instance_id:
                    return invocation.answer()
            raise JsonRESTError("InvocationDoesNotExist", f"{command_id} was not sent to {instance_id}")

        def respond_send(response: Any) -> Any:
            return ActionResult({"Command": ssm.send(**sent(response)).answer()})

        def list_commands(response: Any) -> Any:
            wanted = response._get_param("CommandId")
            found = [c for c in ssm.commands.values() if not wanted or c.id == wanted]
            return ActionResult({"Commands": [c.answer() for c in found]})

        def list_command_invocations(response: Any) -> Any:
            wanted = response._get_param("CommandId")
            found = [i.listed() for c in ssm.commands.values() if not wanted or c.id == wanted for i in c.invocations]
            size = int(response._get_param("MaxResults") or 50)
            begin = int(response._get_param("NextToken") or 0)
            page: dict[str, Any] = {"CommandInvocations": found[begin : begin + size]}
            if begin + size < len(found):
                page["NextToken"] = str(begin + size)
            return ActionResult(page)

        def describe_instance_information(response: Any) -> Any:
            return ActionResult({"InstanceInformationList": [ssm.information(i) for i in ssm.managed()]})

        def start_session(response: Any) -> Any:
            parameters = response._get_param("Parameters", {}) or {}
            return ActionResult(
                ssm.start(response._get_param("Target"), response._get_param("DocumentName") or "", parameters)
            )

        def terminate_session(response: Any) -> Any:
            return ActionResult({"SessionId": response._get_param("SessionId")})

        SimpleSystemManagerBackend.send_command = send_command
        SimpleSystemManagerBackend.get_command_invocation = get_command_invocation
        for name, function in {
            "send_command": respond_send,
            "list_commands": list_commands,
            "list_command_invocations": list_command_invocations,
            "describe_instance_information": describe_instance_information,
            "start_session": start_session,
            "terminate_session": terminate_session,
        }.items():
            setattr(SimpleSystemManagerResponse, name, function)

    def managed(self) -> list[Any]:
        """Instances that the service can reach: running, with a role that lets the agent register."""
        return [
            i for i in self.cloud.instances("running") if self.cloud.ec2.iam_instance_profile_associations.get(i.id)
        ]

    def information(self, instance: Any) -> dict[str, Any]:
        """One entry of DescribeInstanceInformation."""
        return {
            "InstanceId": instance.id,
            "PingStatus": "ConnectionLost" if instance.id in self.cloud.hung else "Online",
            "PlatformType": "Linux",
            "PlatformName": "Debian GNU/Linux",
            "AgentVersion": "3.3.0.0",
            "IPAddress": instance.private_ip,
            "ResourceType": "EC2Instance",
        }

    def targets(self, instance_ids: list[str], targets: list[dict[str, Any]]) -> list[str]:
        """The running, managed instances that a SendCommand means."""
        managed = {i.id: i for i in self.managed()}
        for instance_id in instance_ids:
            if instance_id not in managed:
                raise JsonRESTError(
                    "InvalidInstanceId", f"Instances [[{instance_id}]] not in a valid state for account"
                )
        found = set(instance_ids)
        for target in targets:
            key, values = target["Key"], target["Values"]
            for instance in managed.values():
                tags = {t["key"]: t["value"] for t in instance.get_tags()}
                if (key == "InstanceIds" and instance.id in values) or (
                    key.startswith("tag:") and tags.get(key[4:]) in values
                ):
                    found.add(instance.id)
        return sorted(found)

    def send(self, **asked: Any) -> Command:
        """SendCommand: runs in the background, one thread a host."""
        ids = self.targets(asked.get("instance_ids") or [], asked.get("targets") or [])
        command = Command(
            asked.get("document_name") or "",
            asked.get("comment") or "",
            int(asked.get("timeout_seconds") or 3600),
            asked.get("parameters") or {},
            ids,
        )
        if command.document not in ("AWS-RunShellScript",):
            raise JsonRESTError("InvalidDocument", f"document {command.document!r} does not exist in this sandbox")
        self.commands[command.id] = command
        for invocation in command.invocations:
            threading.Thread(target=self._run, args=(invocation,), daemon=True).start()
        return command

    def _run(self, invocation: Invocation) -> None:
        parameters = invocation.command.parameters
        script = "\n".join(parameters.get("commands", []))
        directory = (parameters.get("workingDirectory") or [""])[0]
        if directory:
            script = f"cd {shlex.quote(directory)}\n{script}"
        limit = float((parameters.get("executionTimeout") or [str(invocation.command.timeout)])[0])
        invocation.begun, invocation.status = datetime.now(UTC), "InProgress"
        host = self.cloud.host(invocation.instance_id)
        try:
            argv = ["docker", "exec", "-i", host.name if host else "-", "sh", "-s"]
            done = subprocess.run(argv, input=script, capture_output=True, text=True, timeout=limit, check=False)
            invocation.out, invocation.err, invocation.code = done.stdout, done.stderr, done.returncode
            invocation.status = "Success" if done.returncode == 0 else "Failed"
        except subprocess.TimeoutExpired as error:
            invocation.out = (error.stdout or b"").decode(errors="replace") if isinstance(error.stdout, bytes) else ""
            invocation.status = "TimedOut"
        invocation.ended = datetime.now(UTC)

    # -- sessions ------------------------------------------------------------------------------------------------------

    def listen(self) -> int:
        """Open the port on loopback that the sandbox's session-manager-plugin connects to. Returns the port."""
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()
        return int(self.listener.getsockname()[1])

    def start(self, target: str, document: str, parameters: dict[str, list[str]]) -> dict[str, str]:
        """StartSession: a token that opens one stream to a port of the host, from inside the host."""
        if target not in {i.id for i in self.managed()} or target in self.cloud.hung:
            raise JsonRESTError("TargetNotConnected", f"{target} is not connected.")
        if document not in SESSION_DOCUMENTS or self.listener is None:
            raise JsonRESTError("InvalidDocument", f"document {document!r} does not exist in this sandbox")
        port = int((parameters.get("portNumber") or ["22"])[0])
        token = secrets.token_urlsafe(24)
        self.sessions[token] = (target, port)
        address = self.listener.getsockname()
        return {
            "SessionId": f"operator-{secrets.token_hex(8)}",
            "TokenValue": token,
            "StreamUrl": f"tcp://{address[0]}:{address[1]}",
        }

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _address = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._splice, args=(client,), daemon=True).start()

    def _splice(self, client: socket.socket) -> None:
        with client:
            client.settimeout(10)
            token = b""
            while not token.endswith(b"\n"):
                byte = client.recv(1)
                if not byte:
                    return
                token += byte
            client.settimeout(None)
            session = self.sessions.pop(token.decode(errors="replace").strip(), None)
            host = self.cloud.host(session[0]) if session else None
            if session is None or host is None:
                return
            # The agent runs on the host, so the stream begins there: no security group lets it in or needs to.
            pid = str(container.host_pid(host))
            joined = ["nsenter", "-t", pid, "-n", "python3", "-c", SPLICE, str(session[1])]
            subprocess.run(joined, stdin=client.fileno(), stdout=client.fileno(), check=False)


def sent(response: Any) -> dict[str, Any]:
    """The parameters of a SendCommand request."""
    return {
        "instance_ids": response._get_param("InstanceIds", []),
        "targets": response._get_param("Targets", []),
        "document_name": response._get_param("DocumentName"),
        "comment": response._get_param("Comment", ""),
        "timeout_seconds": response._get_int_param("TimeoutSeconds"),
        "parameters": response._get_param("Parameters", {}),
    }


SPLICE = """
import os, socket, sys, threading
peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def down():
    while chunk := os.read(0, 65536):
        peer.sendall(chunk)
    peer.shutdown(socket.SHUT_WR)
threading.Thread(target=down, daemon=True).start()
while chunk := peer.recv(65536):
    while chunk:
        chunk = chunk[os.write(1, chunk):]
"""
