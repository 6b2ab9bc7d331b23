"""The file of tokens."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from cxfr_proxy.admin.commands.callers import Role
from cxfr_proxy.admin.http import tokens
from cxfr_proxy.admin.http.tokens import ApiToken, TokenList, make_token, parse_tokens, read_token_file
from cxfr_proxy.errors import ConfigError, FileFaults

DIGEST = hashlib.sha256(b"open sesame").hexdigest()


def test_a_token_is_found_by_its_secret_and_by_nothing_else() -> None:
    made = [make_token(role, f"a.{role}@example.org") for role in Role]
    text = "# who may what\n\n" + "\n".join(f"  {token}  # theirs" for _, token in made)
    assert not any(secret in text for secret, _ in made)
    found = parse_tokens(text, "tokens.txt")
    assert found == TokenList(tuple(token for _, token in made))
    for secret, token in made:
        assert found.find(secret) == token
        assert len(secret) > 43
    assert found.find("") is None
    assert found.find(made[0][0][:-1]) is None
    assert found.find(made[0][1].digest.hex()) is None
    assert TokenList().find(made[0][0]) is None


def test_one_made_by_sha256sum() -> None:
    """As the documentation says it can be."""
    assert parse_tokens(f"view grafana sha256:{DIGEST.upper()}", "t").find("open sesame") == ApiToken(
        "grafana", Role.VIEW, bytes.fromhex(DIGEST)
    )


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("view", "t:3:1: expected a role, a name and a digest, found 1 word"),
        (f"view a sha256:{DIGEST} more", "found 4 words"),
        (
            f"viewer a sha256:{DIGEST}",
            "t:3:1: expected view or operate or admin (did you mean 'view'?), found 'viewer'",
        ),
        (f"view a/b sha256:{DIGEST}", "t:3:6: expected a name of at most 64 letters, digits and _.@-, found 'a/b'"),
        (f"view {'a' * 65} sha256:{DIGEST}", "t:3:6: expected a name"),
        (f"view a sha512:{DIGEST}", "t:3:8: expected sha256: and 64 hexadecimal digits"),
        (f"view a sha256:{DIGEST[1:]}", "t:3:8: expected sha256:"),
        (f"admin first sha256:{'0' * 64}", "t:3:7: there is a token of the name 'first' already"),
        (f"admin second sha256:{DIGEST}", "t:3:14: this token has another name already"),
    ],
)
def test_faults_have_a_place(line: str, fault: str) -> None:
    with pytest.raises(FileFaults) as caught:
        parse_tokens(f"view first sha256:{DIGEST}\n\n{line}\nview\n", "t")
    assert fault in str(caught.value).splitlines()[0]
    assert len(caught.value.errors) == 2, "all of them"


def test_a_secret_in_the_file_is_not_repeated() -> None:
    secret, _ = make_token(Role.ADMIN, "a")
    with pytest.raises(FileFaults) as caught:
        parse_tokens(f"admin a {secret}", "t")
    assert secret not in str(caught.value)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640])
def test_a_file_of_ones_own(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"view a sha256:{DIGEST}\n")
    path.chmod(mode)
    assert read_token_file(path).find("open sesame") is not None


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o660, 0o644])
def test_a_file_that_is_open_to_others_is_refused(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"view a sha256:{DIGEST}\n")
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"tokens: expected a file that nobody else .* found mode {mode:04o}"):
        read_token_file(path)


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokens"
    with pytest.raises(ConfigError, match="tokens: cannot be read: No such file"):
        read_token_file(path)
    path.write_bytes(b"view a\n\xff")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="tokens:2:1: expected UTF-8"):
        read_token_file(path)
    monkeypatch.setattr(tokens, "MAX_FILE_BYTES", 5)
    with pytest.raises(ConfigError, match="expected at most 5 bytes"):
        read_token_file(path)


def test_a_name_that_the_file_cannot_have() -> None:
    with pytest.raises(ConfigError, match="name: expected a name of at most 64 letters"):
        make_token(Role.VIEW, "two words")
