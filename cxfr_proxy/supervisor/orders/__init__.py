"""An operator's orders that go on until they are done: they outlive each worker.

============== ==============================================================
drain_keeper   begins and ends drains, and has workers hear of them
rolls          restarts nodes one after the other, as an operator has ordered
auto_rebalance begins a rebalance when users have come to belong elsewhere
state_keeper   the file in which orders, pins and a roll outlive this process
============== ==============================================================
"""
