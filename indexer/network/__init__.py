"""Every outbound request: addresses checked at the socket, answers bounded, hosts paced."""
