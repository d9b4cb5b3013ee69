"""Words to a call: declares commands and options; what is heavy is imported by the command that needs it."""
