"""What passes between the supervisor and its workers.

========== ===========================================================================
messages   what they tell each other
questions  what the supervisor asks of workers, and how answers become one
codec      how a message is written where they are processes of their own
channel    what carries messages: lines over a socket, or objects within a process
launch     a worker that was started, as the supervisor knows it
========== ===========================================================================
"""
