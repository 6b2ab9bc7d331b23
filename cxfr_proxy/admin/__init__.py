"""The operator's surface: what can be asked of a running proxy and ordered, and how it is shown.

============= =================================================================================
commands      what an operator can type: THE tables of commands and views, and carrying one out
console       what commands work on: the parts of the proxy that an operator can get at
rows          what is answered: rows for people and for programs, and their JSON
control       the control socket
http          health, metrics and an API by HTTP
metrics       THE table of metrics, and a snapshot of the proxy written as one page
text          rows as aligned tables
sentences     single answers in words
latest_events the latest events of the log that are worth showing
feed          who watches is woken by what changes
============= =================================================================================
"""
