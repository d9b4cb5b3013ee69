"""Many runs of one design: each is a process and an ordinary run folder."""
