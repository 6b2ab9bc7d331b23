"""Faults of the operator's, one by one and all at once."""

from __future__ import annotations

import pytest

from cxfr_proxy.errors import ConfigError, FaultList, FileFaults, NodeError


def test_all_faults_are_collected_and_raised_at_once() -> None:
    faults = FaultList()
    done = []
    for number in range(4):
        with faults:
            if number % 2:
                raise ConfigError(f"no {number}", file="a.txt", line=number)
            done.append(number)
    with faults:
        raise FileFaults([ConfigError("this"), ConfigError("that")])
    assert done == [0, 2]
    with pytest.raises(ConfigError) as caught:
        faults.check()
    assert [str(each) for each in caught.value.errors] == ["a.txt:1: no 1", "a.txt:3: no 3", "this", "that"]
    assert str(caught.value) == "a.txt:1: no 1\na.txt:3: no 3\nthis\nthat"
    assert (caught.value.file, caught.value.line) == ("a.txt", 1), "the place of the first one"


def test_each_fault_is_named_once() -> None:
    """A certificate for clients and for HTTPS, say."""
    faults = FaultList()
    for name in ("a.pem", "b.pem", "a.pem"):
        with faults:
            raise ConfigError("it can't be read", file=name)
    with pytest.raises(ConfigError) as caught:
        faults.check()
    assert str(caught.value) == "a.pem: it can't be read\nb.pem: it can't be read"
    assert len(caught.value.errors) == 2


def test_without_a_fault_nothing_is_raised() -> None:
    faults = FaultList()
    with faults:
        pass
    faults.check()


@pytest.mark.parametrize("other", [ValueError("a defect"), NodeError("remote-server-timeout", "it is gone")])
def test_what_is_nobody_s_input_goes_on(other: Exception) -> None:
    with pytest.raises(type(other)), FaultList():
        raise other


def test_one_fault_is_a_list_of_one() -> None:
    fault = ConfigError("this", file="a.txt")
    assert fault.errors == (fault,)
