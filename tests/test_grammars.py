"""Two rooms that don't know each other write down the same addresses: they have to agree."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cxfr_proxy.cluster.nodes_file import NodesFileError, parse_nodes
from cxfr_proxy.xmpp.connection_transfer import Server

_label = st.text(st.sampled_from("aZ09_-"), min_size=1, max_size=5)
_host = st.lists(_label, min_size=1, max_size=3).map(".".join) | st.sampled_from(
    ["4c01db0b339c", "_n", "a.1b", "10.0.0.1", "[2001:db8::1]", "[::1]", "x" * 63, "a-.b", "node1.example.org"]
)
_port = st.sampled_from(["", ":5222", ":1", ":65535"])


@given(_host, _port)
def test_every_public_address_can_be_told_to_a_client(host: str, port: str) -> None:
    try:
        (spec,) = parse_nodes(f"n 10.0.0.1 public={host}{port}", "nodes.txt")
    except NodesFileError:
        return
    assert spec.public is not None
    (on_websocket,) = parse_nodes(f"n 10.0.0.1 public-ws=wss://{host}{port}/ws", "nodes.txt")
    assert on_websocket.public_ws is not None
    assert str(Server(on_websocket.public_ws.host, on_websocket.public_ws.port)).startswith(
        str(Server(spec.public.host))
    )
    assert str(Server(spec.public.host, spec.public.port)) == str(Server.parse(str(spec.public)))
