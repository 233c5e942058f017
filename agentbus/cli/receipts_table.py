"""Receipts as a table and as JSON lines."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import cast

from rich.text import Text

from agentbus.cli.output import Output, moment, new_table
from agentbus.cli.session import OK, TIMEOUT, Failure, open_broker, settings_with
from agentbus.errors import ReceiptTimeout
from agentbus.recipients.receipt import Receipt
from agentbus.recipients.receipts import Receipts


async def show_receipts(
    message_id: str, wait: str | None, timeout: str, *, url: str | None, prefix: str | None, as_json: bool
) -> int:
    """Show the receipts of one message, at once or when all recipients have come so far."""
    output = Output(as_json)
    async with open_broker(url) as broker:
        receipts = Receipts(broker, settings_with(prefix).prefix)
        try:
            if wait:
                found = await receipts.wait_all(message_id, wait, timeout)
            else:
                found = await receipts.status(message_id)
        except ReceiptTimeout as error:
            _print(cast("Sequence[Receipt]", error.receipts), output)
            raise Failure(str(error), TIMEOUT) from error
    _print(found, output)
    return OK


def _print(receipts: Sequence[Receipt], output: Output) -> None:
    if output.json:
        for receipt in receipts:
            output.record(receipt.to_record())
        return
    table = new_table("", ["agent", ">stored", ">delivered", ">read", ">processed", ""])
    table.title = None
    for each in receipts:
        times = (each.stored_at, each.delivered_at, each.read_at, each.processed_at)
        table.add_row(each.agent, *map(_moment, times), _note(each))
    output.table(table)


def _note(receipt: Receipt) -> Text:
    if receipt.refused:
        return Text(receipt.refused, "red")
    return Text("acknowledged" if receipt.acknowledged else "", "dim")


def _moment(at: datetime | None) -> str:
    return "·" if at is None else moment(round(at.timestamp() * 1000))
