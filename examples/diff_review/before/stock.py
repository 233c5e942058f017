"""What is in stock, by article."""

from dataclasses import dataclass


@dataclass
class Article:
    """One article on the shelf."""

    number: str
    count: int


class Stock:
    """The shelf."""

    def __init__(self, articles: list[Article]) -> None:
        self._by_number = {article.number: article for article in articles}

    def take(self, number: str, count: int) -> Article:
        """Take some of an article from the shelf; raises ValueError when there are too few."""
        article = self._by_number[number]
        if article.count < count:
            raise ValueError(f"only {article.count} of {number} are left")
        article.count -= count
        return article
