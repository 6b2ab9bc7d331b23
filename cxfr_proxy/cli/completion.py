"""Shell completion, drawn from the parser: words, flags, and the names of nodes from the proxy that runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from cxfr_proxy.cli.parser import PROGRAM, Parser

_FILES: Final = frozenset(("FILE", "FILE|URL", "PATH", "DIR"))
_NODE: Final = "NODE"


def _parsers(parser: Parser) -> Iterator[Parser]:
    """Yield the parser and all that go on behind its words."""
    yield parser
    for each in parser.words.values():
        yield from _parsers(each)


def _flags(parser: Parser) -> dict[str, argparse.Action]:
    return {name: action for name, action in parser.flags.items() if action.help is not argparse.SUPPRESS}


def _takes_value(action: argparse.Action) -> bool:
    return action.nargs is None


def _operands(parser: Parser) -> list[argparse.Action]:
    return [each for each in parser._actions if not each.option_strings and not parser.words]


def _choices(action: argparse.Action) -> list[str]:
    """Return the values that it may have; none: not one of a few."""
    written = str(action.metavar)
    if action.choices is None and written.startswith("{") and written.endswith("}"):
        return written[1:-1].split(",")
    return list(map(str, action.choices or ()))


def _words_of_operands(root: Parser) -> Iterator[tuple[Parser, int, list[str]]]:
    """Yield each operand that is one of a few words, by its parser and its place there."""
    for parser in _parsers(root):
        for number, action in enumerate(_operands(parser)):
            if words := _choices(action):
                yield parser, number, words
    helping = root.words["help"]
    yield helping, 0, list(root.words)
    yield from ((helping, 1, list(each.words)) for each in root.words.values() if each.words)


# --- bash, and zsh by way of it

# The names path and words would be zsh's own.
_BASH: Final = """\
# Completion for {program}; written by: {program} completion bash
_cxfr_proxy() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} at="" operands=0 value="" word i
    local known="{known}"
    [[ $cur == = ]] && cur=""
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${{COMP_WORDS[i]}}
        if [[ $word == = ]]; then
            continue
        elif [[ $value ]]; then
            value=""
        elif [[ $word == -* ]]; then
            case $word in {valued}) value=$word ;; esac
        elif [[ $known == *"|$at $word|"* ]]; then
            at="$at $word"
        else
            operands=$((operands + 1))
        fi
    done
    local offered="" nodes=""
    case $value in
        "") ;;
        {files}) COMPREPLY=($(compgen -f -- "$cur")); return ;;
{choices}        {nodes}) nodes=yes ;;
        *) COMPREPLY=(); return ;;
    esac
    if [[ ! $value ]]; then
        case $at in
{words}
        esac
        case $at:$operands in
            {operands}) nodes=yes ;;
{few}
        esac
    fi
    if [[ $nodes ]]; then
        offered="$offered $("${{COMP_WORDS[0]}}" show nodes 2> /dev/null | awk 'NR > 1 {{ print $1 }}')"
    fi
    COMPREPLY=($(compgen -W "$offered" -- "$cur"))
}}
complete -F _cxfr_proxy {program}
"""


def _bash(root: Parser) -> str:
    parsers = list(_parsers(root))
    flags = {name: action for parser in parsers for name, action in _flags(parser).items() if _takes_value(action)}
    choices = {name: given for name, action in flags.items() if (given := _choices(action))}
    files = [name for name, action in flags.items() if action.metavar in _FILES]
    nodes = [name for name, action in flags.items() if action.metavar == _NODE]
    operands = [
        f'" {parser.command}:{number}"'
        for parser in parsers
        for number, action in enumerate(_operands(parser))
        if action.metavar == _NODE
    ]
    words = [f'            "{_path(each)}") offered="{" ".join([*each.words, *_flags(each)])}" ;;' for each in parsers]
    return _BASH.format(
        program=PROGRAM,
        known="".join(f"| {each.command}" for each in parsers if each.command) + "|",
        valued="|".join(flags),
        files="|".join(files),
        choices="".join(
            f'        {name}) COMPREPLY=($(compgen -W "{" ".join(given)}" -- "$cur")); return ;;\n'
            for name, given in choices.items()
        ),
        nodes="|".join(nodes),
        words="\n".join(words),
        operands="|".join(operands),
        few="\n".join(
            f'            " {parser.command}:{number}") offered="$offered {" ".join(given)}" ;;'
            for parser, number, given in _words_of_operands(root)
        ),
    )


def _path(parser: Parser) -> str:
    return f" {parser.command}" if parser.command else ""


def _zsh(root: Parser) -> str:
    return f"autoload -U +X bashcompinit && bashcompinit\n{_bash(root)}"


# --- fish

_FISH_NODES: Final = "(__cxfr_proxy_nodes)"
_FISH: Final = f"""\
# Completion for {PROGRAM}; written by: {PROGRAM} completion fish
function __cxfr_proxy_nodes
    {PROGRAM} show nodes 2>/dev/null | awk 'NR > 1 {{ print $1 }}'
end
"""


def _fish(root: Parser) -> str:
    return _FISH + "\n".join([*_fish_lines(root), ""])


def _fish_lines(root: Parser) -> Iterator[str]:
    for parser in _parsers(root):
        words = parser.command.split()
        seen = [f"__fish_seen_subcommand_from {word}" for word in words] or ["__fish_use_subcommand"]
        if words and parser.words:
            seen.append(f"not __fish_seen_subcommand_from {' '.join(parser.words)}")
        at = f"complete -c {PROGRAM} -n {_quoted('; and '.join(seen))}"
        for word, each in parser.words.items():
            yield f"{at} -f -a {word} -d {_quoted(_summary(each.description, None))}"
        if any(action.metavar == _NODE for action in _operands(parser)):
            yield f"{at} -f -a {_quoted(_FISH_NODES)}"
        for each, number, given in _words_of_operands(root):
            if each is parser:
                place = f"test (count (commandline -opc)) -eq {number + len(words) + 1}"
                when = _quoted("; and ".join([*seen, place]))
                yield f"complete -c {PROGRAM} -n {when} -f -a {_quoted(' '.join(given))}"
        for name, action in _flags(parser).items():
            summary = _quoted(_summary(action.help, action.default))
            yield f"{at} -l {name.removeprefix('--')}{_fish_value(action)} -d {summary}"


def _fish_value(action: argparse.Action) -> str:
    if not _takes_value(action):
        return " -f"
    if given := _choices(action):
        return f" -x -a {_quoted(' '.join(given))}"
    if action.metavar == _NODE:
        return f" -x -a {_quoted(_FISH_NODES)}"
    return " -r -F" if action.metavar in _FILES else " -x"


def _summary(text: str | None, default: object) -> str:
    """Return the beginning of a help text: menus have short lines."""
    return ((text or "") % {"default": default}).partition(";")[0]


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


SHELLS: Final[Mapping[str, Callable[[Parser], str]]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
