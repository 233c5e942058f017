"""Dead letters: messages that failed for good, for people to look at, retry, mend, resolve or drop."""

from agentbus.dead_letters.dead_letters import DeadLetters
from agentbus.dead_letters.letter import DeadLetter, DeadLetterPage
from agentbus.dead_letters.retrying import BulkRetry
from agentbus.dead_letters.selection import DeadLetterFilter, Where

__all__ = ["BulkRetry", "DeadLetter", "DeadLetterFilter", "DeadLetterPage", "DeadLetters", "Where"]
