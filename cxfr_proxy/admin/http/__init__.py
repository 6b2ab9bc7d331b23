"""What is to be had by HTTP: ``pages`` says which page there is and what is on it, ``server`` has the sockets."""
