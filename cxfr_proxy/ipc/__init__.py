"""Messages between the supervisor and its workers.

========== ===========================================================================
messages   the messages themselves
questions  the supervisor's questions, and how the answers of all workers become one
codec      writes messages, if workers are processes of their own
channel    carries messages: lines over a socket, or objects within a process
launch     a worker that was started, as the supervisor knows it
========== ===========================================================================
"""
