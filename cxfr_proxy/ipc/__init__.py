"""What passes between the supervisor and its workers.

========== ===========================================================================
messages   what they tell each other
codec      how a message is written where they are processes of their own
channel    what carries messages: lines over a socket, or objects within a process
launch     a worker that was started, as the supervisor knows it
========== ===========================================================================
"""
