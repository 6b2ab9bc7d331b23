"""What passes between the supervisor and its workers: messages, how they are written, and what carries them."""
