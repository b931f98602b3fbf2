"""How requests reach a server: HTTP, gRPC, addresses, tokens, replies."""
