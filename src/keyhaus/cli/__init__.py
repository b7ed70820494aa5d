"""The command line: one subcommand a file. Wires all other rooms together."""
