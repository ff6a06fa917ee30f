"""The `swm` command.

`main` finds the command and turns errors into one line. Each module of `commands` has the commands
of one kind; beside it lies what they share. Everything but click is imported where it is used: most
of what a command waits for is imports.
"""
