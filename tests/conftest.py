"""Which engines the tests run with: ``CXFR_ENGINE=python pytest`` for those that need no compiler."""

from cxfr_proxy.relay import engine

engine.use_from_environment()
