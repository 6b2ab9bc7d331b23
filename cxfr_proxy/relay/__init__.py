"""Sockets, on trio: listening, TLS, dialling, and the pump that carries the bytes of every session."""
