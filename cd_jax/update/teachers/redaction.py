"""Secrets taken out of what others say: servers quote keys when they refuse them, and models when they explain."""

import re
import urllib.parse

_HIDDEN = "[key]"
# Shorter ones are the placeholders of servers that want no key; hiding these would garble every message.
_SHORTEST_KEY = 4
# Of a key that is cut or blotted out, as in `sk-…abcd`, servers show so many characters and more.
_SHORTEST_END = 4
# What stands in an explanation may have a few letters in common with a key by chance.
_SHORTEST_PART = 8


class Redaction:
    """Hides a key, and the credentials of a URL."""

    def __init__(self, key: str, url: str):
        """Takes note of them.

        Args:
          key: of the endpoint.
          url: of the endpoint; it may hold user, password and query.
        """
        parts = urllib.parse.urlsplit(url)
        queried = [value for _, value in urllib.parse.parse_qsl(parts.query)]
        given = [parts.username, parts.password, *queried]
        self._credentials = [urllib.parse.unquote(text) for text in given if text]
        secrets = [text for text in (key, *self._credentials) if len(text) >= _SHORTEST_KEY]
        self._ends = _any_of(text for secret in secrets for text in _ends(secret))
        self._parts = _any_of(text for secret in secrets for text in _parts(secret))

    def of_message(self, text: str) -> str:
        """What a server says, in one line, without the secrets and their first and last characters."""
        return self._ends.sub(_HIDDEN, " ".join(text.split()))

    def of_answer(self, text: str) -> str:
        """What a model says, without the secrets and long parts of them."""
        return self._parts.sub(_HIDDEN, text)


def _any_of(texts) -> re.Pattern:
    alternatives = sorted(set(texts), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, alternatives)) or "(?!)")


def _ends(secret: str) -> list[str]:
    lengths = range(min(_SHORTEST_END, len(secret)), len(secret) + 1)
    return [text for n in lengths for text in (secret[:n], secret[-n:])]


def _parts(secret: str) -> list[str]:
    shortest = min(_SHORTEST_PART, len(secret))
    return [secret[i : i + n] for n in range(shortest, len(secret) + 1) for i in range(len(secret) - n + 1)]
