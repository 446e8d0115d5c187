"""Which addresses this user lets a knowledge base send text to, and which variable's key goes along.

A knowledge base is a folder that anybody may have made.  What it says of an endpoint is a request: its address is called only
when this user has named it, in an encoder's settings of their own, in BRAIDREC_ENDPOINT_URL, or by `confirm`; a key comes only
from the variable that this user named with it.  ``<config>/braidrec/endpoints.json`` remembers addresses and the names of
variables, no key.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, ConfigDict, Field

from braidrec.errors import KnowledgeError
from braidrec.files import read_json, write_json
from braidrec.locks import writer_lock
from braidrec.shown import MASK
from braidrec.strict import Strict, parse, unshown

URL_SETTING, KEY_SETTING = "BRAIDREC_ENDPOINT_URL", "BRAIDREC_ENDPOINT_KEY"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_SPEAKS = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")  # what is surely a variable's name, if it also holds one of these words
_WORDS = ("KEY", "TOKEN", "SECRET", "PASS", "AUTH")


def _variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise unshown(
            "not the name of an environment variable; put the key itself into one (export MY_KEY=...) and name that one"
        )
    return name


KeyVariable = Annotated[str, AfterValidator(_variable)]  # a setting that names the environment variable with a key


class Endpoint(Strict):
    """What a user allowed for an address.  allow_private: it may be of this machine or of a network that is not public"""

    model_config = ConfigDict(hide_input_in_errors=True)

    key_variable: KeyVariable | None = None
    allow_private: bool = False


class _Confirmed(Strict):
    endpoints: dict[str, Endpoint] = Field(default_factory=dict)


def settings_file() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "braidrec" / "endpoints.json"


def confirmed(url: str) -> Endpoint | None:
    """What this user allowed for ``url``; None where they never did."""
    here = os.environ.get(URL_SETTING)
    if here is not None and address(here.rstrip("/")) == address(url):
        return Endpoint(key_variable=KEY_SETTING if os.environ.get(KEY_SETTING) else None, allow_private=True)
    return _read().endpoints.get(address(url))


def confirm(url: str, *, key_variable: str | None = None, allow_private: bool = False) -> None:
    """Let knowledge bases send text to ``url`` from now on, with the key in ``key_variable``.

    Raises KnowledgeError for a private address without ``allow_private``, and for a variable that holds no key now.
    """
    wanted = parse(Endpoint, {"key_variable": key_variable, "allow_private": allow_private}, url)
    if key_variable is not None and not os.environ.get(key_variable, "").strip():
        raise KnowledgeError(f"{url}: the environment variable {name_of(key_variable)} holds no key; set it and confirm again")
    if not allow_private:
        refuse_private(url)
    file = settings_file()
    if _read().endpoints.get(address(url)) == wanted:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with writer_lock(file.with_suffix(".lock")):
            write_json(file, _Confirmed(endpoints=_read().endpoints | {address(url): wanted}).model_dump())
    except OSError as cause:
        raise KnowledgeError(
            f"{file}: the address {url} cannot be noted ({cause}); set XDG_CONFIG_HOME to a folder of yours, or set "
            f"{URL_SETTING} and {KEY_SETTING} for this process alone"
        ) from None


def looked_up(url: str) -> list[str]:
    """The addresses that the name in ``url`` leads to now, in the order in which they should be tried.

    Raises OSError or UnicodeError where it leads nowhere.
    """
    parts = urlsplit(url)
    found = socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


def refuse_private(url: str, found: Sequence[str] | None = None) -> None:
    """Raise KnowledgeError where ``url`` leads to this machine or into a network that is not public.

    found: what it was looked up to; looked up here when left out
    """
    try:
        found = looked_up(url) if found is None else found
    except (OSError, UnicodeError) as cause:
        raise KnowledgeError(f"{url}: its host cannot be found ({cause}); check the address and the network") from None
    for each in sorted(found):
        if not ipaddress.ip_address(each.partition("%")[0]).is_global:
            raise KnowledgeError(
                f"{url}: {each} is of this machine or of a private network, where a folder made by others must not reach; if "
                "it is your own server, confirm it with --allow-private"
            )


def address(url: str) -> str:
    """One spelling per address."""
    parts: SplitResult = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    host = (parts.hostname or "") if ":" not in (parts.hostname or "") else f"[{parts.hostname}]"
    port = "" if parts.port in (None, default) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}{parts.path}".rstrip("/")


def name_of(variable: str) -> str:
    """A variable's name as messages show it: masked where it may be the key itself, put where the name belongs."""
    named = variable in os.environ or (_SPEAKS.fullmatch(variable) and any(word in variable for word in _WORDS))
    return variable if named else f"{MASK} (key_variable)"


def _read() -> _Confirmed:
    file = settings_file()
    return parse(_Confirmed, read_json(file, KnowledgeError), str(file)) if file.exists() else _Confirmed()
