"""What goes over the wire, without the wire. Sans-IO: bytes in, bytes and facts out."""
