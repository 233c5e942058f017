"""``agentbus pub``: send one message, a request, or many messages from stdin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentbus.cli.options import AsJson, Prefix, Url

if TYPE_CHECKING:
    from agentbus.send.envelope import MessageOptions


def pub(  # noqa: PLR0913 - each is one option on the command line
    topic: Annotated[
        str, typer.Argument(help="agent.reviewer.task, or a channel's: system.announcements.pause")
    ],
    body: Annotated[
        str | None, typer.Argument(help="JSON; with --text any text; - reads it from stdin.")
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="The body is text, not JSON.")] = False,
    lines: Annotated[
        bool, typer.Option("--lines", help="Every line of stdin is the body of one message.")
    ] = False,
    priority: Annotated[
        str | None, typer.Option(help="critical, high, normal, low or background.", show_default=False)
    ] = None,
    ttl: Annotated[str | None, typer.Option(help="Worth handling for so long: 10m.")] = None,
    delay: Annotated[str | None, typer.Option(help="Hand it out only after this time: 5s.")] = None,
    at: Annotated[str | None, typer.Option(help="Hand it out at: 2026-12-31T23:59:59Z.")] = None,
    key: Annotated[
        str | None, typer.Option(help="Idempotency: a second message with this key is not stored.")
    ] = None,
    durability: Annotated[
        str | None, typer.Option(help="Confirm only at this level: stream, disk or replicated.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse an address that nobody has ever served.")
    ] = False,
    retry_max: Annotated[
        int | None, typer.Option(help="Tries after the first; wins over the agent's.")
    ] = None,
    retry_delay: Annotated[
        str | None, typer.Option(help="Before the first retry, doubled each time.")
    ] = None,
    correlation_id: Annotated[str | None, typer.Option(help="The conversation it belongs to.")] = None,
    context: Annotated[str | None, typer.Option(help="What you knew when writing it; a JSON object.")] = None,
    metadata: Annotated[str | None, typer.Option(help="Anything about the body; a JSON object.")] = None,
    sender: Annotated[
        str | None, typer.Option("--from", help="Send as this agent. Left out: AGENTBUS_AGENT.")
    ] = None,
    request: Annotated[
        bool, typer.Option("--request", help="Wait for the answer and print its content as JSON.")
    ] = False,
    stream: Annotated[
        bool,
        typer.Option("--stream", help="Print the parts of the answer as they come, a line of JSON each."),
    ] = False,
    collect: Annotated[
        bool, typer.Option("--collect", help="Ask all who subscribe to a channel; print each answer.")
    ] = False,
    timeout: Annotated[
        str, typer.Option(help="How long to wait: for the answer, or for the broker to take it.")
    ] = "30s",
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Send a message.

    \b
    Examples:
      agentbus pub agent.reviewer.task '{"pr": 7}' --priority high
      agentbus pub agent.reviewer.note "tests are red" --text --delay 5m
      echo '{"pr": 7}' | agentbus pub agent.reviewer.task -
      jq -c '.[]' prs.json | agentbus pub agent.reviewer.task --lines
      agentbus pub agent.reviewer.question '"ready?"' --request --timeout 10s
      agentbus pub agent.writer.task '{"words": 100}' --stream
      agentbus pub channel.design.objection '"tabs"' --collect --timeout 30s
      agentbus pub agent.reviewer.task '{"pr": 7}' --key ci-7 --strict
      agentbus pub system.announcements.pause '{"until": "noon"}'

    Prints message id, entry id, the durability reached, and whether anybody has ever served the address.
    Nobody has to: the message waits. With --collect the exit code is 5 when answers are missing.
    """
    from agentbus.cli.publishing import Sending, read_body
    from agentbus.cli.session import USAGE, Failure, run

    async def main() -> int:
        ways = {"--request": request, "--stream": stream, "--collect": collect}
        asking = [name for name, given in ways.items() if given]
        if lines and (body is not None or asking):
            rest = asking[0] if asking else "--request"
            raise Failure(f"--lines reads every message from stdin; leave out the body and {rest}", USAGE)
        if len(asking) > 1:
            raise Failure(f"{' and '.join(asking)} exclude each other", USAGE)
        options = _options(
            priority=priority, ttl=ttl, delay=delay, at=at, key=key, durability=durability,
            correlation_id=correlation_id, context=_object("context", context),
            metadata=_object("metadata", metadata), retry=_retry(retry_max, retry_delay),
            strict=strict or None,
        )  # fmt: skip
        sending = Sending(topic, options, timeout, url=url, prefix=prefix, sender=sender, as_json=as_json)
        if lines:
            return await sending.many(as_text=text)
        content = read_body(body, as_text=text)
        send = {
            "--request": sending.request, "--stream": sending.stream, "--collect": sending.collect,
        }.get(asking[0] if asking else "", sending.one)  # fmt: skip
        return await send(content)

    run(main)


def _options(**given: Any) -> MessageOptions:
    """Return the options that were given; what was left out must not be sent as a default."""
    options: Any = {name: value for name, value in given.items() if value is not None}
    return options  # type: ignore[no-any-return]


def _object(name: str, text: str | None) -> dict[str, Any] | None:
    from agentbus.cli.publishing import read_object

    return None if text is None else read_object(name, text)


def _retry(most: int | None, delay: str | None) -> Any:
    from agentbus.message.policy import Retry

    if most is None and delay is None:
        return None
    default = Retry()
    return Retry(
        max_retries=default.max_retries if most is None else most,
        retry_delay=default.retry_delay if delay is None else delay,
    )
