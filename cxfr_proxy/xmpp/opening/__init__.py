"""From a client's first byte to its full JID: headers, features, and what a login says and comes to."""
