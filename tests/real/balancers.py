"""HAProxy and nginx in front of the proxy, in all ways that they can be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import trio

from cxfr_proxy.demo.browser import PATH
from real import programs
from real.certs import Certificate
from real.programs import HOST, Need, free_port, missing, require, which
from real.proxy import ProxyProcess

_HAPROXY: Final = """\
global
  maxconn 100
defaults
  mode tcp
  default-server fall 1000
  timeout connect 60s
  timeout client 1h
  timeout server 1h
  unique-id-format cxfr-test-%cp
listen version1
  bind {host}:{ports.version1}
  server proxy {host}:{proxy} send-proxy check inter 100ms
listen version2
  bind {host}:{ports.version2}
  server proxy {host}:{proxy} send-proxy-v2 proxy-v2-options unique-id,crc32c check inter 100ms
listen tls
  bind {host}:{ports.ending_tls} ssl crt {folder}/both.pem
  server proxy {host}:{proxy} send-proxy-v2-ssl check inter 100ms
"""
_NGINX: Final = """\
load_module {module};
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 100; }}
stream {{
  server {{
    listen {host}:{ports.nginx};
    proxy_pass {host}:{proxy};
    proxy_protocol on;
  }}
}}
http {{
  access_log off;
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  server {{
    listen {host}:{ports.nginx_web} ssl;
    ssl_certificate {folder}/both.pem;
    ssl_certificate_key {folder}/both.pem;
    location = {path} {{
      proxy_pass http://{host}:{proxy};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection "upgrade";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_buffering off;
      proxy_read_timeout {read_timeout};
    }}
  }}
}}
"""
_MODULE: Final = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


class Ports(NamedTuple):
    """Of HAProxy, with TLS that passes through or ends there, and of nginx, which has version 1, or serves HTTP."""

    version1: int
    version2: int
    ending_tls: int
    nginx: int
    nginx_web: int


@asynccontextmanager
async def balancers(
    folder: Path, proxy: ProxyProcess, certificate: Certificate, *, read_timeout: str = "5s"
) -> AsyncIterator[Ports]:
    """``read_timeout``: for how long nginx lets a WebSocket be silent."""
    ports = Ports(*(free_port() for _ in Ports._fields))
    (folder / "both.pem").write_bytes(certificate.certificate.read_bytes() + certificate.key.read_bytes())
    fields = {"host": HOST, "ports": ports, "proxy": proxy.port, "folder": folder, "path": PATH}
    started: list[trio.Process] = []
    try:
        for need, text, option in ((Need.HAPROXY, _HAPROXY, "-f"), (Need.NGINX, _NGINX, "-c")):
            file = folder / f"{need.value}.cfg"
            file.write_text(text.format(**fields, module=_MODULE, read_timeout=read_timeout))
            program, output = which(need.value), folder / f"{need.value}.log"
            assert program is not None
            foreground = ["-db"] if need is Need.HAPROXY else []
            process = await programs.start([program, *foreground, option, file], output=output)
            started.append(process)
            for port in ports[:3] if need is Need.HAPROXY else ports[3:]:
                await programs.wait_accepting(HOST, port, process, output)
        yield ports
    finally:
        for process in started:
            await programs.end(process)


def require_balancers() -> None:
    require(Need.HAPROXY, Need.NGINX)
    if not _MODULE.exists():
        missing("not installed: nginx's stream module (Debian: libnginx-mod-stream)")
