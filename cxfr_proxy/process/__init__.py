"""The running proxy: its tasks, its signals, and the control socket by which its operator speaks to it."""
