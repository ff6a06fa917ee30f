"""Gates: one package per kind of remote site, each a server in a process of its own."""
