"""Another value for each setting, as an operator writes it and as it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cxfr_proxy.cluster.addresses import PublicAddress, WebSocketUrl
from cxfr_proxy.cluster.backends import FileBackends
from cxfr_proxy.cluster.placement import PlacementPolicy
from cxfr_proxy.cluster.targets import HostPattern
from cxfr_proxy.config.choices import ForwardingHeader, ReusePort
from cxfr_proxy.config.table import (
    CxfrUnknown,
    ListenAddress,
    NodeStreamManagement,
    OnNodeDown,
    ProxyHeaderUse,
    RebalanceMode,
    Route,
    SaslAuthzid,
    SmAfterTransfer,
    StartTls,
    TrustNodeRedirects,
    WrongNode,
)
from cxfr_proxy.config.values import (
    ClientMatch,
    DomainPolicy,
    DomainRedirect,
    ListenPath,
    PeerNetwork,
    Trait,
)
from cxfr_proxy.events import LogFormat, LogLevel

OTHER: Final[dict[str, tuple[str, object]]] = {
    "backends": ("nodes.txt", FileBackends("nodes.txt")),
    "listen": ("[::1]:5223", (ListenAddress("::1", 5223),)),
    "listen-unix": ("/run/c,mode=0600,group=haproxy", (ListenPath("/run/c", 0o600, None, "haproxy"),)),
    "reuse-port": ("yes", ReusePort.YES),
    "trusted-proxies": ("10.0.0.0/8", (PeerNetwork("10.0.0.0/8"),)),
    "proxy-header": ("optional", ProxyHeaderUse.OPTIONAL),
    "domain": ("Example.ORG.", ("example.org",)),
    "certificate": ("a.pem", (Path("a.pem"),)),
    "certificates": ("certs", (Path("certs"),)),
    "key": ("a.key", (Path("a.key"),)),
    "starttls": ("off", StartTls.OFF),
    "logins-per-second": ("150/s", 150.0),
    "admission-timeout": ("1m", 60.0),
    "route": ("connect", Route.CONNECT),
    "placement": ("Example.ORG=least-sessions", (DomainPolicy("example.org", PlacementPolicy.LEAST_SESSIONS),)),
    "user-map": ("users.txt", Path("users.txt")),
    "node-certificate": ("node.pem", Path("node.pem")),
    "node-key": ("node.key", Path("node.key")),
    "user-lookup": ("http://[::1]:80/x?y=1", "http://[::1]:80/x?y=1&jid={jid}"),
    "lookup-cache": ("2m", 120.0),
    "lookup-timeout": ("300ms", 0.3),
    "workers": ("17", 17),
    "transfer-rate": ("2.5", 2.5),
    "on-node-down": ("close", OnNodeDown.CLOSE),
    "node-stream-management": ("on", NodeStreamManagement.ON),
    "cxfr-unknown": ("skip", CxfrUnknown.SKIP),
    "cxfr-allow": ("agent=Some Client", (ClientMatch(Trait.AGENT, "Some Client"),)),
    "cxfr-deny": ("domain=Example.ORG.", (ClientMatch(Trait.DOMAIN, "example.org"),)),
    "sm-after-transfer": ("wrap", SmAfterTransfer.WRAP),
    "forwarded-header": ("forwarded", ForwardingHeader.FORWARDED),
    "websocket-path": ("none", None),
    "websocket-origin": ("HTTPS://Chat.example.org:443/", ("https://chat.example.org",)),
    "websocket-ping": ("0", 0.0),
    "host-meta": (
        "wss://[2001:DB8::1]/ws?a=%C3%A4",
        (WebSocketUrl("wss://[2001:db8::1]/ws?a=%C3%A4", "2001:db8::1", 443),),
    ),
    "sasl-authzid": ("allow", SaslAuthzid.ALLOW),
    "redirect-targets": ("*.Example.org.", (HostPattern("*.example.org"),)),
    "redirect-domain": (
        "Old.example.=new.example.net:5223",
        (DomainRedirect("old.example", PublicAddress("new.example.net", 5223)),),
    ),
    "trust-node-redirects": ("yes", TrustNodeRedirects.YES),
    "wrong-node": ("keep", WrongNode.KEEP),
    "rebalance": ("manual", RebalanceMode.MANUAL),
    "redirect-window": ("0", 0.0),
    "cxfr-timeout": ("1m", 60.0),
    "migrate-timeout": ("3s", 3.0),
    "see-other-host-timeout": ("500ms", 0.5),
    "node-connect-timeout": ("1h", 3600.0),
    "node-greeting-timeout": ("4s", 4.0),
    "node-close-timeout": ("3s", 3.0),
    "tls-handshake-timeout": ("3 s", 3.0),
    "negotiation-timeout": ("3", 3.0),
    "write-stall-timeout": ("3.5", 3.5),
    "keepalive-timeout": ("1m", 60.0),
    "hard-stop-after": ("0", 0.0),
    "max-element-negotiating": ("16KiB", 16384),
    "max-unacknowledged": ("1MiB", 1048576),
    "max-element-up": ("1MiB", 1048576),
    "max-element-down": ("10000", 10000),
    "max-depth": ("8", 8),
    "connections-per-address": ("none", None),
    "state": ("state", Path("state")),
    "control": ("c.sock", Path("c.sock")),
    "http-certificate": ("http.pem", Path("http.pem")),
    "http-key": ("http.key", Path("http.key")),
    "http-host": ("proxy.example.org", ("proxy.example.org",)),
    "http-tokens": ("tokens.txt", Path("tokens.txt")),
    "http": ("[::1]:9222", ListenAddress("::1", 9222)),
    "log-format": ("json", LogFormat.JSON),
    "log-level": ("debug", LogLevel.DEBUG),
}
