"""What the agents say to each other."""

from __future__ import annotations

from pydantic import BaseModel


class Change(BaseModel):
    """One changed file, to be reviewed."""

    file: str
    text: str
    new_lines: list[int]


class Finding(BaseModel):
    """Something that a reviewer found."""

    file: str
    line: int
    rule: str
    text: str
    serious: bool


class Proposal(BaseModel):
    """What the planner proposes to do with the change."""

    change: str
    verdict: str


class Objection(BaseModel):
    """Why a reviewer is against it."""

    reviewer: str
    reasons: list[Finding]


class Question(BaseModel):
    """What the planner asks one reviewer directly."""

    asker: str
    about: str
    text: str
