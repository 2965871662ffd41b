"""Public networks as a world wants them: what their files hold, how each takes its input."""
