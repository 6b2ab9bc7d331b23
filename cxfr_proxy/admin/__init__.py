"""What an operator can say to a running proxy: one table of commands, and the rows that answer."""
