"""One client, from header to last byte. Sans-IO but :mod:`.mover`: bytes and time in, commands out."""
