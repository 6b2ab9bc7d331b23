"""The proxy's answers: flat rows, the same for people's tables and for programs.

========== ==========================================
rows       what can be seen
order_rows what an order would do, and how far it is
live_rows  what is told live and not shown
answers    what commands answer: rows, or a few words
filters    which of many rows are asked for
codec      rows and JSON
========== ==========================================
"""
