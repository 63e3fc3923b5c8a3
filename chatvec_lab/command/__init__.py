"""The command line, one file a verb: each has `add(verbs)`, its arguments, and what it runs."""
