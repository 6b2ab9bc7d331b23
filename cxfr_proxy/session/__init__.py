"""One client, from header to last byte. Sans-IO: bytes and time in, commands out."""
