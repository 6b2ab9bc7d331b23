"""XEP-0051 Connection Transfer: the IQ that tells a client to which address its connection should move.

The specification is four listings and a paragraph. It has no schema, no reply, no discovery and no security section,
so these are ours, and this module is where they are written down:

* The *payload* is ``<query xmlns='urn:xmpp:cxfr'>`` with exactly ``<domain/>`` (to log in to) and ``<server/>`` (to
  connect to), in this order; ``cxfr.xsd`` says so, and everything read or written agrees with it.
* The *address* in ``<server/>`` is a name, an IPv4 address, or an IPv6 address in brackets (which the specification
  leaves out), each with an optional port. A server equal to the domain means "simply reconnect".
* The *stanza* goes from the user's domain to the full JID, in ``jabber:client``, with an id, as RFC 6120 section 8
  wants it. The listings have no id and a bare JID; ``parse(..., strict=False)`` is for them.
* The *reply* is the IQ result or error that any IQ gets. It is recognised by its id, never by what is in it: clients
  send the payload back, and many answer with an error because they never heard of this protocol.
* *Support* is announced as the disco#info feature ``urn:xmpp:cxfr``. A server asks for features once per capabilities
  hash, ever, so a proxy that comes later would never see them: a client says it in its presence as well, by
  :data:`CAPS_MARK`.
* *Forgery*: a request that comes from anybody but the proxy would let a stranger send a user anywhere.
  :func:`is_transfer` finds it, and errs on the side of finding. An answer can be forged as well, by somebody who made
  the client answer *them*: besides the id, :func:`fits` looks at who it is from and for.

Why the id begins with the namespace: the framer, which does not parse, watches for one byte string,
``urn:xmpp:cxfr``. Every request holds it in its ``xmlns``, every announcement of support in its ``var``; an answer need
hold nothing but its id. With the namespace at the head of the id this one string flags all three, and the fast path
never needs a list of ids that are open. The characters of the prefix need no escaping in an attribute, so a client
that copies the id writes the same bytes.

The schema judges the structure of what is read, and :class:`Server` says at which column an address goes wrong. A test
that asks both holds them to the same grammar.
"""

from __future__ import annotations

import functools
import importlib.resources
import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

from lxml import etree

from cxfr_proxy.spellings import domain_key, user_key
from cxfr_proxy.xmpp import jid, names
from cxfr_proxy.xmpp.stanza import Element, child, qualified

ID_PREFIX: Final = f"{names.CXFR}:"
"""The beginning of the id of every injected IQ; see the theory above."""

CAPS_MARK: Final = "+xep-0051"
"""At the end of a capabilities node (XEP-0115), and so in every first presence: this client understands requests. It
does not hold ``urn:xmpp:cxfr``, or every contact's presence would be flagged on its way down."""

_ANY_OF_OURS: Final = qualified(names.CXFR, "*")
_XML_SPACE: Final = " \t\r\n"
_MAX_NAME: Final = 253
"""Characters of a whole name: RFC 1035's 255 octets on the wire, less the first length and the root label."""
_MAX_LABEL: Final = 63

# Characters of an internationalised label: a coarse sieve for what cannot be in one (separators, symbols, signs that
# turn the writing direction) and for what a resolver folds into ASCII (full-width and mathematical digits, other full
# stops). The same ranges stand in cxfr.xsd.
_WIDE: Final = (
    "\u00b7\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u037d\u037f-\u061b\u061d-\u167f\u1681-\u180d\u180f-\u1fff\u200c-\u200d"
    "\u2c00-\u2dff\u3005-\ud7ff\uf900-\ufaff\U00010000-\U0001cfff\U0001e000-\U0001edff"
    "\U00020000-\U0003ffff"
)
# RFC 1123 has no "_" in host names, but container networks use it in theirs, and resolvers look them up.
_LABEL: Final = re.compile(f"[A-Za-z0-9_{_WIDE}-]+")
_LETTER: Final = re.compile(f"[A-Za-z{_WIDE}]")
_PORT: Final = re.compile("[1-9][0-9]{0,4}")
_NOT_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Matches a character that XML 1.0 cannot carry, escaped or not (production 2, Char)."""


class TransferSyntaxError(ValueError):
    """Something is not what the grammar of a connection transfer expects.

    ``column`` counts characters from 1 in the text that was given; ``None`` if the fault is not in one text.
    ``expected`` says what should have stood there. Neither repeats more than one character of the input.
    """

    def __init__(self, expected: str, column: int | None = None) -> None:
        super().__init__(expected if column is None else f"column {column}: {expected}")
        self.expected = expected
        self.column = column


@dataclass(frozen=True, slots=True)
class Server:
    """The address in ``<server/>``.

    ``host`` is a name, an IPv4 address, or an IPv6 address without brackets in the spelling of RFC 5952 (any spelling
    may be given). ``port`` is ``None`` where the client is to find it as it always does (SRV records, then 5222).

    Raises :class:`TransferSyntaxError`, with columns in ``host``.
    """

    host: str
    port: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", _host(self.host, 1))
        if self.port is not None and not 1 <= self.port <= 65535:
            raise TransferSyntaxError("expected a port from 1 to 65535")

    @classmethod
    def parse(cls, text: str) -> Server:
        """Read ``host[:port]``, with XML white space around it ignored.

        Raises :class:`TransferSyntaxError`, with columns in ``text``.
        """
        core = text.strip(_XML_SPACE)
        column = len(text) - len(text.lstrip(_XML_SPACE)) + 1
        host, host_column, rest = _bracketed(core, column) if core.startswith("[") else _plain(core, column)
        host = _host(host, host_column)
        if not rest:
            return cls(host)
        rest_column = column + len(core) - len(rest)
        if not rest.startswith(":"):
            raise TransferSyntaxError("expected ':' and a port, or the end", rest_column)
        digits = rest[1:]
        if not _PORT.fullmatch(digits) or int(digits) > 65535:
            raise TransferSyntaxError("expected a port from 1 to 65535", rest_column + 1)
        return cls(host, int(digits))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


def _bracketed(core: str, column: int) -> tuple[str, int, str]:
    """Return the host, its column and what follows, where the host is written in brackets."""
    end = core.find("]")
    if end < 0:
        raise TransferSyntaxError("expected ']' after the IPv6 address", column + len(core))
    if ":" not in core[:end]:
        raise TransferSyntaxError("expected an IPv6 address in the brackets", column + 1)
    return core[1:end], column + 1, core[end + 1 :]


def _plain(core: str, column: int) -> tuple[str, int, str]:
    """Return the host, its column and what follows, where the host is not written in brackets."""
    if core.count(":") > 1:
        raise TransferSyntaxError("expected at most one ':'; an IPv6 address stands in brackets", column)
    host, colon, port = core.partition(":")
    return host, column, colon + port


def _host(text: str, column: int) -> str:
    """Check a host that begins at ``column``, and return its canonical spelling."""
    if ":" in text:
        return _ipv6(text, column)
    if not text:
        raise TransferSyntaxError("expected a name, an IPv4 address, or an IPv6 address in brackets", column)
    if len(text) > _MAX_NAME:
        raise TransferSyntaxError(f"expected at most {_MAX_NAME} characters of a name", column + _MAX_NAME)
    # RFC 1123 section 2.1: a top-level name begins with a letter, and that is what keeps names and IPv4 apart. It also
    # keeps out "0x7f.1" and "2130706433", which some resolvers take for an address.
    if text.rpartition(".")[2].startswith(tuple("0123456789")):
        try:
            return str(IPv4Address(text))
        except AddressValueError as exc:
            raise TransferSyntaxError(
                "expected an IPv4 address (four numbers from 0 to 255), or a name whose last part begins with a letter",
                column,
            ) from exc
    start = column
    for label in text.split("."):
        _check_label(label, start)
        start += len(label) + 1
    if not _LETTER.match(label):
        raise TransferSyntaxError(
            "expected a letter at the head of a name's last part", column + len(text) - len(label)
        )
    return text


def _check_label(label: str, column: int) -> None:
    good = _LABEL.match(label)
    end = good.end() if good else 0
    if end < len(label):
        raise TransferSyntaxError(
            f"expected a letter, a digit, '-', '_', '.' or ':', found {label[end]!a}", column + end
        )
    if not label:
        raise TransferSyntaxError("expected a letter or a digit", column)
    if len(label) > _MAX_LABEL:
        raise TransferSyntaxError(f"expected at most {_MAX_LABEL} characters between two dots", column + _MAX_LABEL)
    if label.startswith("-"):
        raise TransferSyntaxError("expected a letter or a digit, found '-'", column)
    if label.endswith("-"):
        raise TransferSyntaxError("expected a letter or a digit after '-'", column + len(label))


def _ipv6(text: str, column: int) -> str:
    # A zone id names a network interface of one machine; on the client's it means something else, or nothing.
    if "%" in text:
        raise TransferSyntaxError("expected an IPv6 address without a zone id", column + text.index("%"))
    try:
        return IPv6Address(text).compressed
    except AddressValueError as exc:
        raise TransferSyntaxError("expected an IPv6 address", column) from exc


def new_id(token: str) -> str:
    """Return the id of an IQ to inject. The caller's ``token`` is unique in the stream's life and not to be guessed.

    Raises :class:`ValueError` for an empty token.
    """
    if not token:
        raise ValueError("an id needs a token to be told from the others")
    return ID_PREFIX + token


@dataclass(frozen=True, slots=True)
class ConnectionTransfer:
    """One request to move.

    ``id`` is empty, and ``to`` a bare JID, only where ``parse(..., strict=False)`` read it so; such a request is never
    written. ``from_`` is the domain that hosts the user, ``domain`` the one to log in to (the same, as a rule): a name
    or an address like ``server`` but without a port, IPv6 in brackets.

    Raises :class:`TransferSyntaxError` for a domain, ``from_`` or ``to`` that is none, and for what XML cannot carry.
    """

    id: str
    from_: str
    to: str
    domain: str
    server: Server

    def __post_init__(self) -> None:
        for value in (self.id, self.from_, self.to):
            found = _NOT_XML.search(value)
            if found:
                raise TransferSyntaxError(f"expected characters that XML allows, found {found[0]!a}", found.start() + 1)
        try:
            sender, _ = jid.split(self.from_), jid.split(self.to)
        except jid.JidError as exc:
            raise TransferSyntaxError(f"expected JIDs in 'from' and 'to': {exc}") from exc
        if sender.local is not None or sender.resource is not None:
            raise TransferSyntaxError("expected a domain in 'from', not a user")
        if self.domain != self.domain.strip(_XML_SPACE):
            raise TransferSyntaxError("expected a domain without white space around it")
        if Server.parse(self.domain).port is not None:
            raise TransferSyntaxError("expected a domain without a port")

    @classmethod
    def reconnect(cls, id: str, domain: str, to: str) -> ConnectionTransfer:
        """Return a request to "simply reconnect" (listing 4): the server is the domain itself.

        Raises :class:`TransferSyntaxError`.
        """
        return cls(id=id, from_=domain, to=to, domain=domain, server=Server.parse(domain))

    @classmethod
    def parse(cls, element: Element, *, strict: bool = True) -> ConnectionTransfer:
        """Read an ``<iq/>``. Without ``strict``, one without an id or to a bare JID too, as the listings have it.

        Raises :class:`TransferSyntaxError`.
        """
        if element.tag != qualified(names.CLIENT, "iq") or element.get("type") != "set":
            raise TransferSyntaxError("expected an iq of type 'set' in jabber:client")
        query = _only_child(element)
        _check_against_schema(query)
        domain, server = ((part.text or "").strip(_XML_SPACE) for part in query)
        transfer = cls(
            id=element.get("id", ""),
            from_=element.get("from", ""),
            to=element.get("to", ""),
            domain=domain,
            server=Server.parse(server),
        )
        if strict:
            transfer._check_addressing()
        return transfer

    def to_bytes(self) -> bytes:
        """Return the stanza, to be put between two others.

        Raises :class:`TransferSyntaxError` for a request that only a lenient parse would read back.
        """
        self._check_addressing()
        return (
            f"<iq xmlns='{names.CLIENT}' type='set' id='{_attribute(self.id)}' from='{_attribute(self.from_)}' "
            f"to='{_attribute(self.to)}'><query xmlns='{names.CXFR}'><domain>{self.domain}</domain>"
            f"<server>{self.server}</server></query></iq>"
        ).encode()

    def _check_addressing(self) -> None:
        if not self.id:
            raise TransferSyntaxError("expected an id (RFC 6120 section 8.1.3)")
        if jid.split(self.to).resource is None:
            raise TransferSyntaxError("expected a full JID in 'to'")


_ESCAPES: Final = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", "'": "&apos;", '"': "&quot;"}
    # A parser turns these into spaces when they stand in an attribute as they are (XML 1.0 section 3.3.3).
    | {space: f"&#{ord(space)};" for space in "\t\n\r"}
)


def _attribute(value: str) -> str:
    """Return the value for single quotes. Only attributes need it: the grammar of domain and server has no markup."""
    return value.translate(_ESCAPES)


def _only_child(iq: Element) -> Element:
    """Return the payload of a set, which has exactly one (RFC 6120 section 8.2.3)."""
    if len(iq) != 1 or iq[0].tag != qualified(names.CXFR, "query"):
        raise TransferSyntaxError("expected exactly one child, a query in urn:xmpp:cxfr")
    if (iq.text or "").strip(_XML_SPACE) or (iq[0].tail or "").strip(_XML_SPACE):
        raise TransferSyntaxError("expected no text beside the query")
    return iq[0]


def _check_against_schema(query: Element) -> None:
    for node in query.iter():
        # XMPP forbids comments, processing instructions and entities. They would hide text from some readers.
        if not isinstance(node.tag, str):
            raise TransferSyntaxError("expected elements and text only (RFC 6120 section 11.1)")
        # A schema allows xsi:type and xsi:schemaLocation on any element; the latter names a file to be fetched.
        if node.attrib:
            raise TransferSyntaxError("expected no attributes in a query in urn:xmpp:cxfr")
    if not schema().validate(query):
        raise TransferSyntaxError(
            "expected a domain, then a server: each a name, an IPv4 address or an IPv6 address in brackets, "
            "the server with an optional port from 1 to 65535"
        )


@functools.cache
def schema() -> etree.XMLSchema:
    """Return ``cxfr.xsd``, read from this package on first use. It imports nothing, so nothing is fetched."""
    source = importlib.resources.files(__package__).joinpath("cxfr.xsd").read_bytes()
    return etree.XMLSchema(etree.fromstring(source, etree.XMLParser(no_network=True, resolve_entities=False)))


@dataclass(frozen=True, slots=True)
class TransferAnswer:
    """A client's answer to a request.

    ``condition`` is the stanza error's defined condition (RFC 6120 section 8.3.3), ``None`` if the client accepted or
    named none; ``text`` likewise is the error's own. Any error means no, this time.
    """

    id: str
    accepted: bool
    condition: str | None
    text: str | None = None

    @property
    def unknown_to_it(self) -> bool:
        """Whether the client says that it does not know such requests. A client that refuses for another reason, such
        as having been moved too often, knows them."""
        return self.condition in _NEVER_HEARD_OF_IT


_NEVER_HEARD_OF_IT: Final = frozenset(("service-unavailable", "feature-not-implemented"))
"""RFC 6120 section 8.4 has the one, and many libraries say the other."""


def answer(stanza: Element) -> TransferAnswer | None:
    """Read a client's stanza as the answer to a request; ``None`` for any other stanza.

    The caller knows whether the id is one that is open.
    """
    iq_id, iq_type = stanza.get("id", ""), stanza.get("type")
    if not _is_iq(stanza) or not iq_id.startswith(ID_PREFIX) or iq_type not in ("result", "error"):
        return None
    if iq_type == "result":
        return TransferAnswer(iq_id, accepted=True, condition=None)
    parts = {
        etree.QName(part).localname: part.text
        for error in stanza.iterchildren("{*}error")
        for part in error.iterchildren(qualified(names.STANZA_ERRORS, "*"))
    }
    text = parts.pop("text", None)
    return TransferAnswer(iq_id, accepted=False, condition=next(iter(parts), None), text=text)


def fits(stanza: Element, domain: str, full_jid: str | None) -> bool:
    """Return whether a client's answer is addressed as one to the proxy, which asks in the name of ``domain``.

    Some clients leave out ``to`` (strophe.js), most leave out ``from``. A stanza for somebody else answers somebody
    else's question, whatever its id.
    """
    if domain_key(stanza.get("to", domain)) != domain_key(domain):
        return False
    sender, mine = _address_key(stanza.get("from", "")), _address_key(full_jid or "")
    return sender in ("", mine, mine.partition("/")[0])


def _address_key(address: str) -> str:
    bare, slash, resource = address.partition("/")
    return f"{user_key(bare)}{slash}{resource.lower()}"


def mentions_support(stanza: Element, caps: str | None = None) -> bool:
    """Return whether a client's disco#info result (XEP-0030) lists ``urn:xmpp:cxfr``.

    With ``caps`` (``node#ver``), whether it says so of all with these capabilities (XEP-0115 section 6.2).
    """
    if not _is_iq(stanza) or stanza.get("type") != "result":
        return False
    query = child(stanza, names.DISCO_INFO, "query")
    if query is None or (caps is not None and query.get("node") != caps):
        return False
    features = query.iterchildren(qualified(names.DISCO_INFO, "feature"))
    return any(feature.get("var") == names.CXFR for feature in features)


def is_transfer(stanza: Element) -> bool:
    """Return whether a client could take this stanza for a request to move.

    If so, it must never reach a client unless the proxy wrote it. So this is wider than what :meth:`parse` reads: a
    type that is missing or unknown (a client that asks only "is it not an answer?" would follow it), and any element of
    the namespace at any depth (some clients go by the namespace alone, others search all descendants). Results and
    errors are no requests, and messages no IQs, whatever they carry.
    """
    return _is_iq(stanza) and is_request(stanza) and next(stanza.iterdescendants(_ANY_OF_OURS), None) is not None


def is_request(iq: Element) -> bool:
    """Return whether an ``<iq/>`` asks for something. Only its type counts: it is not an answer."""
    return iq.get("type") not in ("result", "error")


def _is_iq(stanza: Element) -> bool:
    """Return whether it is an IQ by its local name: over WebSocket some peers forget the namespace."""
    return isinstance(stanza.tag, str) and etree.QName(stanza).localname == "iq"
