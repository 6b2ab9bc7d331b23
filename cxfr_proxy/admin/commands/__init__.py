"""The commands and views of an operator, whichever way they come in.

========= ============================================================================
table     THE table of commands, and carrying one out
views     THE table of what can be seen: columns, and where rows come from
actions   what commands do and answer: a function each, which takes the parts it needs
arguments what a command takes, checked once for every way that it comes in
callers   those who give commands, and what they may do
audit     a line in the log for each order
========= ============================================================================
"""
