"""Words for messages to people.

Comes in: numbers and the names of what they count. Goes out: text. It must never import another part of TSQ.
"""


def counted(number: int, what: str) -> str:
    """The number with what it counts, in the singular or the plural: "1 connection", "2 connections"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
