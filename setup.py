"""The native framing engine. Everything else about the package is in pyproject.toml."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "cxfr_proxy.xmpp._scan",
            sources=["cxfr_proxy/xmpp/_scan.c"],
            depends=["cxfr_proxy/xmpp/_names.h"],
            py_limited_api=True,
            extra_compile_args=["-O3", "-Wall", "-Wextra"],
            optional=True,  # without a compiler the engine in Python runs
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
