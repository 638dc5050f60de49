"""The runner: stages and parameters, what is up to date and why, execution, console."""
