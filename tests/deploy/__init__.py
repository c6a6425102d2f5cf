"""Whether what deploy/ and the Dockerfile say is well formed, and true of the server."""
