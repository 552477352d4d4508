"""Many clients' dealings with many servers in virtual time: clocks that drift, links that misbehave, servers that lie."""
