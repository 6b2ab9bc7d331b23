"""Many clients on the move: the live sessions, who moves when and where to, and who is back.

Sans-IO, but for those that wait: :mod:`.mover`, :mod:`.drains`, :mod:`.rebalances` and :mod:`.planner`.
"""
