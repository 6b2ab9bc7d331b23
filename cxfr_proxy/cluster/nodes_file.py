"""The grammar of ``nodes.txt``.

The file holds one node a line, ``name address [key=value ...]``, blank lines and ``#`` comments between::

    # name   address            options
    node1    10.0.0.11:5222     public=node1.example.org weight=2
    node2    10.0.0.12:5223     tls=direct ca=/etc/ssl/nodes.pem send-proxy=v2 public=[2001:db8::12]:5222
    node3    unix:/run/xmpp/c2s state=drain

Words are separated by white space and hold none. A ``#`` starts a comment only where a word could start; inside a
word it is an error rather than a guess. An option stands once, and one that would have no effect is an error. All
errors of a file are reported together, so that one look is enough to mend it.

Which options there are, and what may stand in them, is the table of :mod:`.nodes`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from cxfr_proxy.cluster.addresses import ADDRESS_FORMS, XMPP_PORT, XMPPS_PORT, UnixAddress, is_unix, read_address
from cxfr_proxy.cluster.nodes import OPTIONS, Check, Migrate, NodeSpec, NodeTls, Resume
from cxfr_proxy.cluster.targets import ANYWHERE, RedirectTargets
from cxfr_proxy.cluster.words import Word, did_you_mean, words_of
from cxfr_proxy.errors import ConfigError, FileFaults

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Of a node."""
_NO_ADDRESS: Final = UnixAddress("/")
"""Stands in while the options are read, which decide about the default port; and if there is no address."""


class NodesFileError(FileFaults):
    """A list that cannot be used, with all of its faults."""


def parse_nodes(text: str, file: str, targets: RedirectTargets = ANYWHERE) -> tuple[NodeSpec, ...]:
    """Read a whole list; ``file`` is its path for the messages, ``targets`` what may be a public address.

    Raises :class:`NodesFileError` with every fault found; a list without nodes is one.
    """
    specs: list[NodeSpec] = []
    faults: list[ConfigError] = []
    names: dict[str, Word] = {}
    # Not splitlines(): it also splits where no editor counts a line. White space takes care of a "\r".
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        words = words_of(line, file, number)
        if words:
            spec, found = _read_node(words, names)
            found += _target_faults(spec, words, targets)
            specs.append(spec)
            faults += sorted(found, key=lambda fault: fault.column or 0)
    if not specs:
        faults.append(ConfigError("expected a node ('name address [key=value ...]'), found none", file=file))
    if faults:
        raise NodesFileError(faults)
    return tuple(specs)


def parse_node(name: str, text: str, place: str, targets: RedirectTargets = ANYWHERE) -> NodeSpec:
    """Read one node that is kept under its name: ``text`` is its line without it. ``place`` is where, for messages.

    Raises :class:`NodesFileError`.
    """
    words = [Word(name, place, 1, 1), *words_of(text, place, 1)]
    spec, faults = _read_node(words, {})
    faults += _target_faults(spec, words, targets)
    if faults:
        raise NodesFileError(faults)
    return spec


def parse_common(options: Iterable[str], place: str) -> NodeSpec:
    """Read a node without name and address that has these options (``key=value`` each), for others to be made of.

    ``place`` is where they stand, for messages. Raises :class:`NodesFileError`, also for options of a single node.
    """
    words = [Word(option, place, 1, 1) for option in options]
    spec, faults = _read_options(NodeSpec("", _NO_ADDRESS), words)
    for word in words:
        key = word.text.partition("=")[0]
        if key in OPTIONS and OPTIONS[key].single:
            faults.append(word.fault(f"{key}= is for one node, and these options are for all"))
    if faults:
        raise NodesFileError([ConfigError(fault.message, file=place) for fault in faults])
    return spec


def _read_node(words: list[Word], names: dict[str, Word]) -> tuple[NodeSpec, list[ConfigError]]:
    """Return the line's node and all of its faults; with faults the node is of no use. ``names`` are the taken ones."""
    for word in words:
        if "#" in word.text:
            # A path cut short, or a comment taken for a value: both would go unnoticed.
            fault = word.part(word.text.index("#")).fault("expected white space before the '#' of a comment")
            return NodeSpec("", _NO_ADDRESS), [fault]
    name, *rest = words
    faults = _name_faults(name, names)
    address = rest.pop(0) if rest and not _is_option(rest[0]) else None
    spec, found = _read_options(NodeSpec(name.text, _NO_ADDRESS), rest)
    faults += found
    if address is None:
        missing = rest[0] if rest else name.part(len(name.text))
        faults.append(missing.expected(f"an address ({ADDRESS_FORMS}) after the name"))
    else:
        try:
            spec = replace(spec, address=read_address(address, XMPPS_PORT if spec.tls is NodeTls.DIRECT else XMPP_PORT))
        except ConfigError as exc:
            faults.append(exc)
    return spec, faults


def _is_option(word: Word) -> bool:
    return "=" in word.text and not is_unix(word)


def _name_faults(name: Word, names: dict[str, Word]) -> list[ConfigError]:
    if not NAME.fullmatch(name.text):
        # Not "-" or "." first: names are arguments of commands and parts of URLs.
        return [name.expected("a name (letters, digits, '.', '_', '-'; a letter or digit first)")]
    first = names.setdefault(name.text, name)
    if first is name:
        return []
    return [name.fault(f"expected another name, found '{name.text}' again (first on line {first.line})")]


def _target_faults(spec: NodeSpec, words: list[Word], targets: RedirectTargets) -> list[ConfigError]:
    addresses = {"public=": spec.public, "public-ws=": spec.public_ws}
    return [
        word.part(len(option)).expected(f"a host that redirect-targets allows ({targets})")
        for option, address in addresses.items()
        if address is not None and not targets.allow(address.host)
        for word in words
        if word.text.startswith(option)
    ]


def _read_options(spec: NodeSpec, words: list[Word]) -> tuple[NodeSpec, list[ConfigError]]:
    faults: list[ConfigError] = []
    seen: dict[str, Word] = {}
    for word in words:
        try:
            spec = _read_option(spec, word, seen)
        except ConfigError as fault:
            faults.append(fault)
        seen.setdefault(word.text.partition("=")[0], word)
    # With a tls= that is wrong itself, nobody knows what was meant: one message is enough.
    if not spec.uses_tls and ("tls" not in seen or seen["tls"].text == "tls=none"):
        faults.extend(
            word.fault(f"{key}= has no effect without TLS: expected tls=starttls or tls=direct as well")
            for key, word in seen.items()
            if key in OPTIONS and OPTIONS[key].needs_tls
        )
    if spec.check is Check.NONE:
        faults.extend(
            word.fault(f"{key}= has no effect with check=none: nobody looks at the node")
            for key, word in seen.items()
            if key in OPTIONS and OPTIONS[key].needs_check
        )
    return spec, faults + list(_migration_faults(spec, seen))


def _migration_faults(spec: NodeSpec, seen: Mapping[str, Word]) -> Iterator[ConfigError]:
    """Yield what is wrong for migration: a session is taken to a node by resuming it there, and the proxy logs in with
    a certificate."""
    word = seen.get("migrate")
    if spec.migrate is Migrate.NONE:
        if spec.migrate_address is not None:
            yield seen["migrate-address"].fault("migrate-address= has no effect without migrate=external")
    elif word is not None and spec.resume is not Resume.SHARED:
        yield word.fault("migrate=external has no effect without resume=shared: the session is resumed on the node")
    elif word is not None and not spec.uses_tls:
        yield word.fault(
            "migrate=external has no effect without TLS: expected migrate-address=, tls=direct or tls=starttls as well"
        )


def _read_option(spec: NodeSpec, word: Word, seen: Collection[str]) -> NodeSpec:
    key, equals, text = word.text.partition("=")
    option = OPTIONS.get(key)
    if option is None:
        hint = did_you_mean(key, OPTIONS) or f" (known: {', '.join(OPTIONS)})"
        raise word.fault(word.expected("an option (key=value)").message + hint)
    if key in seen:
        raise word.fault(f"expected {key}= once, found it again")
    value = word.part(len(key) + len(equals))
    if not text:
        raise value.expected(f"{option.form.expects} after '{key}='")
    return replace(spec, **{option.field: option.form.read(value)})
