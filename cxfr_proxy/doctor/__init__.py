"""``cxfr-proxy doctor``: look at the nodes as clients find them, and name each fault with the setting that mends it.

Facts are collected by :mod:`.examining`, and judged without IO by a table of rules; a rule sees all facts at once, so
it can compare nodes. It works without a proxy that runs.

================ ===================================================================================================
facts            what was seen of the nodes and of the proxy's own side: values
offer            what a node's stream features offer to somebody who wants to log in
software         the programs that nodes run
findings         a rule, a symptom that it sees, a finding
rules            the rules
judgement        from facts to findings
questions        what could not be found out, and why
report           text and JSON
reference        docs/doctor.md, drawn from the rules
examining        collecting the facts
================ ===================================================================================================
"""
