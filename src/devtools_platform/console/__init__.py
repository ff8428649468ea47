"""The console (:8080): what a person would rather see than read. Knows only core and kit."""
