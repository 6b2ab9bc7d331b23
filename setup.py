"""The native engines. Everything else about the package is in pyproject.toml."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "cxfr_proxy.xmpp.framing._scan",
            sources=["cxfr_proxy/xmpp/framing/_scan.c"],
            depends=["cxfr_proxy/xmpp/framing/_names.h", "cxfr_proxy/xmpp/framing/_scan.h"],
            py_limited_api=True,
            extra_compile_args=["-O3", "-Wall", "-Wextra"],
            optional=True,  # without a compiler the engine in Python runs
        ),
        Extension(
            "cxfr_proxy.xmpp.websocket._frames",
            sources=["cxfr_proxy/xmpp/websocket/_frames.c"],
            depends=[
                "cxfr_proxy/xmpp/framing/_scan.h",
                "cxfr_proxy/xmpp/websocket/_frames.h",
                "cxfr_proxy/xmpp/websocket/_text.h",
            ],
            py_limited_api=True,
            extra_compile_args=["-O3", "-Wall", "-Wextra"],
            optional=True,  # the same
        ),
        Extension(
            "cxfr_proxy.relay._turn",
            sources=["cxfr_proxy/relay/_turn.c"],
            depends=["cxfr_proxy/xmpp/framing/_scan.h", "cxfr_proxy/xmpp/websocket/_frames.h"],
            py_limited_api=True,
            extra_compile_args=["-O3", "-Wall", "-Wextra"],
            optional=True,  # the same
        ),
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
