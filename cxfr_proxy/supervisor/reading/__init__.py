"""The settings and files that are read at the start and at each reload, and sent to the workers.

============ ==============================================================================
reloading    takes settings and files anew: all of it, or nothing
node_list    keeps the live list as its source has it
user_list    the user map, read and sent to workers
served_files certificates and CA certificates, as workers are to use them with the settings
============ ==============================================================================
"""
